# SPDX-License-Identifier: Apache-2.0
"""Whole configurations and photographs small enough to train on in a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ml_collections import ConfigDict
from PIL import Image
from safetensors.torch import load_file

from coltran import checkpoint
from coltran.train import train
from tests.tiny import colorizer_config, guide_config, upsampler_config


def whole_config(name: str = "coltran_core", dropout: float = 0.0, **changes: Any) -> ConfigDict:
    """A configuration of a tiny network on 16 x 16 images (a guide: 32 x 32), 8 x 8 where it is for small ones."""
    sections = {"coltran_core": colorizer_config(8, 8), "guide": guide_config(8)}
    model = sections.get(name) or upsampler_config(name, 8, 8)
    if dropout:
        model["encoder"]["dropout"] = model["decoder"]["dropout"] = dropout
    config = {
        "resolution": [32, 32] if name == "guide" else [16, 16],
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


def train_to(steps: int, config: ConfigDict, logdir: Path, photos_dir: Path, **options: Any) -> int:
    """Trains up to a step, from the start or where a log directory ends, and writes down the losses of every step."""
    config = ConfigDict(config.to_dict() | {"max_train_steps": steps})
    return train(config, logdir, photos_dir, steps_per_summaries=1, **({"workers": 0} | options))


def losses_of(logdir: Path) -> list[tuple[int, float, float]]:
    """The number of every step of a training, its loss and total loss."""
    lines = [json.loads(line) for line in (logdir / "train.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["total_loss"]) for line in lines]


def assert_same_training(ours: Path, theirs: Path, atol: float = 0) -> None:
    """Losses of every step, and weights, averages and optimizer at the end."""
    np.testing.assert_allclose(losses_of(ours), losses_of(theirs), rtol=0, atol=atol)
    for file in ("model.safetensors", "training.safetensors"):
        found, expected = (load_file(checkpoint.find(logdir) / file) for logdir in (ours, theirs))
        torch.testing.assert_close(found, expected, rtol=0, atol=atol)
