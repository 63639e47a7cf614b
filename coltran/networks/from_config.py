# SPDX-License-Identifier: Apache-2.0
"""From a configuration to the network that it describes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from coltran.networks.colorizer import Colorizer
from coltran.networks.layers import choose, plain
from coltran.networks.upsamplers import ColorUpsampler, SpatialUpsampler

NETWORKS: dict[str, type[Colorizer] | type[ColorUpsampler] | type[SpatialUpsampler]] = {
    "coltran_core": Colorizer,
    "color_upsampler": ColorUpsampler,
    "spatial_upsampler": SpatialUpsampler,
}


def build(model_config: Mapping[str, Any]) -> nn.Module:
    """The network of a `model` section, by its `name`, with fresh weights from torch's generator.

    Raises:
        ValueError: an unknown name or option, or fewer layers than none.
        KeyError: a size without a default is missing.
    """
    if (fewest := min(layer_counts(model_config), default=0)) < 0:
        raise ValueError(f"a number of layers must be at least 0, not {fewest}")
    return choose(NETWORKS, model_config.get("name", ""), "model.name")(model_config)


def layer_counts(section: Mapping[str, Any]) -> Iterator[int]:
    """The numbers of layers that a `model` section asks for."""
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from layer_counts(value)
        elif isinstance(value, int) and str(key).endswith("_layers"):
            yield value


def model_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The `model` section of a whole configuration, with `resolution` set to what its data delivers.

    The original sizes its networks by their input and ignores `model.resolution`: the spatial upsampler works at
    `config.resolution`, the others at `downsample_res` where `downsample` is set.

    Raises:
        ValueError: `config.resolution` is no height and width.
        KeyError: it is missing where it is wanted.
    """
    whole = plain(config)
    sides = whole.get("resolution", [1, 1])
    if not (isinstance(sides, list) and len(sides) == 2 and all(isinstance(n, int) and n > 0 for n in sides)):
        raise ValueError(f"config.resolution must be a height and a width, as in [256, 256], not {sides!r}")
    model = whole["model"]
    side = whole.get("downsample_res", 64)
    low = whole.get("downsample", False) and model.get("name") != "spatial_upsampler"
    return model | {"resolution": [side, side] if low else whole["resolution"]}
