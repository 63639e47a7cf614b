# SPDX-License-Identifier: Apache-2.0
"""Exported networks are the trained ones in half precision, or nothing is written."""

from __future__ import annotations

import pytest
import torch

import coltran
from coltran import checkpoint, export, networks
from coltran.checkpoint import CheckpointError
from tests.tiny import colorizer_config, upsampler_config


@pytest.fixture
def runs(tmp_path):
    """A folder with a log directory of a colorizer and a checkpoint of a colour upsampler, both square."""
    folder = tmp_path / "runs"
    checkpoint.save(networks.build(colorizer_config(8, 8)), folder / "colorizer" / "checkpoint-000010")
    checkpoint.save(networks.build(upsampler_config("color_upsampler", 8, 8)), folder / "color_upsampler")
    return folder


def test_exported_weights_are_the_trained_ones_in_half_precision(runs, tmp_path):
    assert export.main([str(runs), "-o", str(tmp_path / "out")]) == 0
    exported, trained = coltran.from_pretrained(tmp_path / "out"), coltran.from_pretrained(runs)
    for name, tensor in trained.colorizer.state_dict().items():
        assert torch.equal(exported.colorizer.state_dict()[name], tensor.half().float()), name
    assert exported.stages == ("coarse", "color")
    files = {path.name for path in (tmp_path / "out" / "colorizer").iterdir()}
    assert files == {"model.safetensors", "config.yaml"}  # nothing of the training


def test_a_folder_without_a_colorizer_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no folder named colorizer"):
        export.main([str(tmp_path), "-o", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
