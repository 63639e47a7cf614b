# SPDX-License-Identifier: Apache-2.0
"""Configurations of networks small enough for a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from coltran import checkpoint, networks
from coltran.networks.colorizer import Colorizer
from coltran.pipeline import NETWORKS, Pipeline

LOW, HIGH = 8, 16  # pixels a side of `tiny_pipeline`
OPTIONS: dict[str, dict[str, Any]] = {  # of a colorizer's decoder
    "paper": {},
    "shift": {"cond_mlp": "shift", "cond_att_scale": False, "cond_ln_seq": "cs", "cond_ln_sp_ave": "mean"},
    "plain norm": {"cond_ln": False, "cond_att_k": False, "skip": False},
    "nothing conditioned": {"cond_ln": False, "cond_mlp": "", **{f"cond_att_{c}": False for c in "qkv"}},
    "activations": {"cond_att_act": "tanh", "cond_mlp_act": "sigmoid", "cond_ln_act": "relu"},
}


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


def save_tiny_networks(folder: Path) -> Path:
    """The networks of `tiny_pipeline` as a folder of checkpoints."""
    found = tiny_pipeline()
    for name in NETWORKS:
        checkpoint.save(getattr(found, name), folder / name)
    return folder


def random_colorizer(**options: Any) -> Colorizer:
    """A tiny colorizer whose every weight is drawn, so that each of them matters."""
    network = Colorizer(colorizer_config(**options))
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.normal_(std=0.3)
    return network.eval()
