# SPDX-License-Identifier: Apache-2.0
"""ColTran: colouring photographs by sampling (Kumar, Weissenborn, Kalchbrenner, ICLR 2021)."""

from coltran._checkout import find_kernels

find_kernels()

from coltran.networks.colorizer import Colorizer  # noqa: E402
from coltran.networks.upsamplers import ColorUpsampler, SpatialUpsampler  # noqa: E402
from coltran.pipeline import Pipeline, from_pretrained  # noqa: E402

__version__ = "0.1.0"

__all__ = ["ColorUpsampler", "Colorizer", "Pipeline", "SpatialUpsampler", "__version__", "from_pretrained"]
