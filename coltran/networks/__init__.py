# SPDX-License-Identifier: Apache-2.0
"""The three networks: their layers, what a configuration builds, and the losses they are trained with."""

from coltran.networks.colorizer import Colorizer
from coltran.networks.from_config import build, layer_counts, model_config
from coltran.networks.upsamplers import ColorUpsampler, SpatialUpsampler

__all__ = ["ColorUpsampler", "Colorizer", "SpatialUpsampler", "build", "layer_counts", "model_config"]
