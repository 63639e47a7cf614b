# SPDX-License-Identifier: Apache-2.0
"""Configurations of networks small enough for a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from coltran import checkpoint, networks
from coltran.networks.colorizer import Colorizer
from coltran.networks.guide import Guide
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


def guide_config(side: int = 16) -> dict[str, Any]:
    """The `model` section of a guide of few channels beside its features."""
    return {"name": "guide", "hidden_size": 16, "resolution": [side, side]}


def random_guide(side: int = 16) -> Guide:
    """A guide whose head and table are drawn, so that each pixel has a distribution of its own."""
    torch.manual_seed(11)
    guide = Guide(guide_config(side))
    with torch.no_grad():
        guide.head.weight.normal_()
        guide.gray_embedding.weight.normal_()
        guide.table.copy_(torch.randn_like(guide.table).log_softmax(-1))
    return guide.eval()


def tiny_networks() -> list[nn.Module]:
    """One of each of the paper's networks, and colorizers with the options that change their tensors."""
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


def guided_pipeline() -> Pipeline:
    """`tiny_pipeline` with a `random_guide`."""
    found = tiny_pipeline()
    return Pipeline(found.colorizer, found.color_upsampler, found.spatial_upsampler, random_guide(LOW))


def save_tiny_networks(folder: Path) -> Path:
    """The networks of `tiny_pipeline` as a folder of checkpoints."""
    found = tiny_pipeline()
    for name in NETWORKS:
        if getattr(found, name) is not None:
            checkpoint.save(getattr(found, name), folder / name)
    return folder


def random_colorizer(**options: Any) -> Colorizer:
    """A tiny colorizer whose every weight is drawn, so that each of them matters."""
    network = Colorizer(colorizer_config(**options))
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.normal_(std=0.3)
    return network.eval()


def scene(height: int, width: int) -> np.ndarray:
    """A gray picture uint8 [height, width] of full range that has dark and light in all its parts."""
    y, x = np.mgrid[:height, :width] / max(height, width, 2)
    waves = np.sin(40 * x + 9 * y) + np.sin(31 * y - 7 * x) + 0.5 * np.sin(80 * x * y)
    values = (waves - waves.min()) / max(float(np.ptp(waves)), 1e-9)
    return np.rint(255 * np.clip(1.5 * values - 0.25, 0, 1)).astype(np.uint8)
