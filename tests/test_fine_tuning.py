# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning from weights that were exported: what they have learned is there from the first step."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from coltran.export import export
from coltran.train import train
from tests.tiny_training import whole_config, write_photos


def _first_loss(logdir: Path) -> float:
    return json.loads((logdir / "train.jsonl").read_text(encoding="utf-8").splitlines()[0])["loss"]


def test_a_training_goes_on_from_exported_weights(tmp_path: Path):
    photos = write_photos(tmp_path / "photos")
    common = {"workers": 0, "steps_per_summaries": 1}
    optimizer = {"type": "adam", "learning_rate": 1e-2}
    config = whole_config(max_train_steps=60, optimizer=optimizer, polyak_decay=0.0)
    train(config, tmp_path / "runs" / "colorizer", photos, **common)
    export(tmp_path / "runs", tmp_path / "published", torch.float16)
    few = whole_config(max_train_steps=1, optimizer=optimizer)
    train(few, tmp_path / "fresh", photos, seed=1, **common)
    pretrained = tmp_path / "published" / "colorizer"
    train(few, tmp_path / "tuned", photos, seed=1, pretrain_dir=pretrained, **common)
    assert _first_loss(tmp_path / "tuned") < _first_loss(tmp_path / "fresh") - 1
