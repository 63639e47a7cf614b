# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of training and of the upsamplers' estimates, on tiny networks."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import counting, loader, train_step, upsampling
from coltran import networks
from coltran.networks.losses import bits
from coltran.pipeline import Pipeline
from tests.tiny import colorizer_config, upsampler_config
from tests.tiny_training import whole_config, write_photos


def test_a_step_multiplies_as_often_as_counted():
    model = colorizer_config(height=4, width=5)
    network, rgb = networks.build(model), torch.zeros(1, 4, 5, 3, dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter:
        output = network(rgb, implementation="reference")
        labels = torch.zeros(1, 4, 5, dtype=torch.int64)
        (bits(output.logits, labels) + bits(output.parallel_logits, labels)).backward()
    masked = 3 * (20 * (4 - 1) * 16 + 2 * 20 * (5 - 1) * 16)  # one outer layer along columns, two inner along rows
    assert counter.get_total_flops() // 2 == counting.training_step(model) + masked


@pytest.mark.parametrize("name", ["coltran_core", "color_upsampler", "spatial_upsampler"])
def test_a_step_is_timed_and_has_a_share(monkeypatch, capsys, name):
    limits = train_step.machine.Limits((1, 1, 1), {"float32": 1e9}, 1, 1.0, 1.0)
    monkeypatch.setattr(train_step.machine, "measure_limits", lambda device: limits)
    found = SimpleNamespace(get_config=lambda: whole_config(name))
    monkeypatch.setattr(train_step, "importlib", SimpleNamespace(import_module=lambda _: found))
    monkeypatch.setattr(train_step, "keep_memory", lambda: True)
    assert train_step.main(["--batch", "2", "--precision", "float32", "--steps", "2"]) == 0
    (step,) = json.loads(capsys.readouterr().out.splitlines()[-1])["steps"]
    model = networks.model_config(whole_config(name))
    assert step["gflop"] == pytest.approx(2 * 2 * counting.training_step(model) / 1e9)
    assert step["share"] == pytest.approx(step["gflop"] / step["seconds"])


def test_estimates_are_measured_against_the_truth(tmp_path, monkeypatch, capsys):
    sections = (
        colorizer_config(4, 4),
        upsampler_config("color_upsampler", 4, 4),
        upsampler_config("spatial_upsampler", 8, 8),
    )
    pipeline = Pipeline(*(networks.build(section).eval() for section in sections))
    monkeypatch.setattr(upsampling, "from_pretrained", lambda _: pipeline)
    photos = write_photos(tmp_path, 2)
    assert upsampling.main(["--photos", str(photos), "--count", "2", "--spatial", "1"]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["images"] for row in rows] == 4 * [2] + 4 * [1]
    assert all(0 < row["ab"] <= row["ab, worst 0.1 %"] and row["rmse"] > 0 for row in rows)


def test_a_perfect_network_makes_no_errors():
    truth = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)

    def certain(given, gray):
        return 100 * torch.nn.functional.one_hot(given.long(), 256).float()

    for name, difference, distance in upsampling.errors(certain, truth, torch.from_numpy(truth)[None]):
        assert not difference.any() and not distance.any(), name


def test_photographs_are_read_decoded_and_mapped(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", "")  # the program sets it
    monkeypatch.setattr(loader, "LARGE", (40, 30))
    photos = write_photos(tmp_path / "photos", 2)
    assert loader.main(["--images", str(photos), "--folder", str(tmp_path), "--batches", "1"]) == 0
    images = json.loads(capsys.readouterr().out.splitlines()[-1])["images"]
    assert images.keys() == {str(photos), str(tmp_path / "large")}
    assert all(way["a_second"] > 0 for ways in images.values() for way in (ways["decoded"], ways["mapped"]))
