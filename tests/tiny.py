# SPDX-License-Identifier: Apache-2.0
"""Configurations of networks small enough for a test."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from coltran import networks
from coltran.pipeline import Pipeline

LOW, HIGH = 8, 16  # pixels a side of `tiny_pipeline`


def colorizer_config(height: int = 6, width: int = 8, **decoder: Any) -> dict[str, Any]:
    """The `model` section of a tiny colorizer with the paper's options; keywords change the decoder's."""
    sizes = {"hidden_size": 16, "ff_size": 12, "num_heads": 2}
    conditioned = {f"cond_att_{part}": True for part in ("q", "k", "v", "scale")}
    return {
        "name": "coltran_core",
        "hidden_size": 16,
        "stage": "encoder_decoder",
        "resolution": [height, width],
        "encoder": sizes | {"num_encoder_layers": 1},
        "decoder": sizes | {"num_outer_layers": 1, "num_inner_layers": 2} | conditioned | decoder,
    }


def upsampler_config(name: str, height: int = 6, width: int = 8) -> dict[str, Any]:
    """The `model` section of a tiny upsampler."""
    sizes = {"hidden_size": 16, "ff_size": 12, "num_heads": 2, "num_encoder_layers": 1}
    return sizes | {"name": name, "resolution": [height, width]}


def tiny_networks() -> list[nn.Module]:
    """One of each network, and colorizers with the options that change their tensors."""
    sections = [
        colorizer_config(),
        colorizer_config(cond_mlp="shift", cond_att_scale=False, cond_ln_seq="cs", cond_ln_sp_ave="mean"),
        colorizer_config(cond_ln=False, cond_att_k=False, cond_mlp=""),
        upsampler_config("color_upsampler"),
        upsampler_config("spatial_upsampler"),
    ]
    return [networks.build(section) for section in sections]


def tiny_pipeline() -> Pipeline:
    """Random networks of `LOW` pixels a side, and `HIGH` for the spatial upsampler."""
    torch.manual_seed(5)
    sections = [
        colorizer_config(LOW, LOW),
        upsampler_config("color_upsampler", LOW, LOW),
        upsampler_config("spatial_upsampler", HIGH, HIGH),
    ]
    return Pipeline(*(networks.build(section).eval() for section in sections))
