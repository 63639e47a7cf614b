# SPDX-License-Identifier: Apache-2.0
"""The programs that colour give on XLA what they give on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from coltran import checkpoint, networks, sample
from coltran.original.records import read_records
from tests.tiny_training import whole_config, write_photos

CONFIG = """
import sys
sys.path.insert(0, {root!r})
from tests.tiny_training import whole_config
def get_config():
    sample = {{"num_outputs": 3, "num_samples": 1, "batch_size": 3, "mode": "sample"}}
    sample |= {{"log_dir": "samples", "gen_file": "gen0"}}
    return whole_config({name!r}, dataset="custom", valid_examples=3, sample=sample)
"""
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("name", ["coltran_core", "color_upsampler", "spatial_upsampler"])
def test_coltran_sample_writes_the_images_of_a_cpu(tmp_path, program, name):
    photos = write_photos(tmp_path / "photos", 6)
    config = tmp_path / "config.py"
    config.write_text(CONFIG.format(root=str(ROOT), name=name))
    network = networks.build(networks.model_config(whole_config(name)))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.5)
    checkpoint.save(network, tmp_path / "log", config=whole_config(name))
    images = []
    for device in ("cpu", "xla"):
        flags = [f"--config={config}", f"--logdir={tmp_path / 'log'}", f"--data_dir={photos}", f"--device={device}"]
        assert program(sample.main, *flags, "--mode=sample_valid") == 0
        found = read_records(tmp_path / "log" / "samples" / "gen0.tfrecords", tuple(network.config["resolution"]))
        images.append([record.image for record in found])
    assert len(images[0]) == 3
    assert all((ours == theirs).all() for ours, theirs in zip(*images, strict=True))
