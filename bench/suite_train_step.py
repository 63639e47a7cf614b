# SPDX-License-Identifier: Apache-2.0
"""A step of training of each of the three networks, at the sizes of `coltran/configs/small_*.py`."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from coltran.training.step import start, take_step

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["small_colorizer", "small_color_upsampler", "small_spatial_upsampler"])
def test_train_step(benchmark: Any, name: str) -> None:
    config = importlib.import_module(f"coltran.configs.{name}").get_config()
    config.batch_size = 1
    training = start(config, seed=0, device=DEVICE)
    height, width = training.config["model"]["resolution"]
    generator = torch.Generator().manual_seed(0)
    rgb = torch.randint(256, (1, height, width, 3), generator=generator, dtype=torch.uint8)
    batch = {"rgb": rgb}
    if "upsampler" in name:
        batch["channel_index"] = torch.tensor([0])
    if "spatial" in name:
        batch["low_res"] = rgb
    losses = take_step(training, batch)
    assert all(bool(loss.isfinite()) for loss in losses.values())

    def run() -> None:
        take_step(training, batch)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    benchmark(run)
