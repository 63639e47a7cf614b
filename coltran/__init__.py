# SPDX-License-Identifier: Apache-2.0
"""ColTran: colouring photographs by sampling (Kumar, Weissenborn, Kalchbrenner, ICLR 2021)."""

from coltran.film.film import Film
from coltran.loading import from_pretrained
from coltran.networks.colorizer import Colorizer
from coltran.networks.upsamplers import ColorUpsampler, SpatialUpsampler
from coltran.pipeline import Pipeline

__version__ = "0.1.0"

__all__ = ["ColorUpsampler", "Colorizer", "Film", "Pipeline", "SpatialUpsampler", "__version__", "from_pretrained"]
