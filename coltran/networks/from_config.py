# SPDX-License-Identifier: Apache-2.0
"""From a configuration to the network that it describes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from coltran.config import EvalConfig, as_dict, part
from coltran.networks.colorizer import Colorizer
from coltran.networks.guide import Guide
from coltran.networks.layers import choose
from coltran.networks.upsamplers import ColorUpsampler, SpatialUpsampler

NETWORKS: dict[str, type[Colorizer] | type[ColorUpsampler] | type[SpatialUpsampler] | type[Guide]] = {
    "coltran_core": Colorizer,
    "color_upsampler": ColorUpsampler,
    "spatial_upsampler": SpatialUpsampler,
    "guide": Guide,
}


def build(model_config: Mapping[str, Any]) -> nn.Module:
    """The network of a `model` section, by its `name`, with fresh weights from torch's generator.

    Raises:
        ValueError: an unknown name, key or option, or a size that is missing.
    """
    return choose(NETWORKS, model_config.get("name", ""), "model.name")(model_config)


def layer_counts(section: Mapping[str, Any]) -> Iterator[int]:
    """The numbers of layers that a `model` section asks for."""
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from layer_counts(value)
        elif isinstance(value, int) and str(key).endswith("_layers"):
            yield value


def model_config(config: EvalConfig | Mapping[str, Any]) -> dict[str, Any]:
    """The `model` section of a whole configuration, with `resolution` set to what its data delivers.

    The original sizes its networks by their input and ignores `model.resolution`: the spatial upsampler works at
    `config.resolution`, the others at `downsample_res` where `downsample` is set.

    Raises:
        ConfigError: the configuration has no section `model`, or says not what size its data have.
    """
    data = part(EvalConfig, config)
    low = data.downsample and data.network != "spatial_upsampler"
    return as_dict(data.model) | {"resolution": [data.downsample_res] * 2 if low else list(data.resolution)}
