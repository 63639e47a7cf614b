# SPDX-License-Identifier: Apache-2.0
"""Whole configurations and photographs small enough to train on in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from tests.tiny import colorizer_config, upsampler_config


def whole_config(name: str = "coltran_core", dropout: float = 0.0, **changes: Any) -> ConfigDict:
    """A configuration of a tiny network on 16 x 16 images, 8 x 8 where the network is for small ones."""
    model = colorizer_config(8, 8) if name == "coltran_core" else upsampler_config(name, 8, 8)
    if dropout:
        model["encoder"]["dropout"] = model["decoder"]["dropout"] = dropout
    config = {
        "resolution": [16, 16],
        "downsample": True,
        "downsample_res": 8,
        "batch_size": 2,
        "eval_batch_size": 4,
        "max_train_steps": 6,
        "save_checkpoint_secs": 900,
        "polyak_decay": 0.9,
        "random_channel": True,
        "loss_factor": 0.99,
        "encoder_loss_factor": 0.01,
        "optimizer": {"type": "rmsprop", "learning_rate": 1e-3},
        "model": model,
    }
    return ConfigDict(config | changes)


def write_photo(path: Path, seed: int, height: int = 20, width: int = 24) -> Path:
    """A photograph of smooth random colours, its format by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


def write_photos(folder: Path, count: int = 5) -> Path:
    """A folder of photographs `p00.png`, `p01.png`, ..., of different sizes."""
    for i in range(count):
        write_photo(folder / f"p{i:02d}.png", i, 20 + 3 * i, 30 - 2 * i)
    return folder
