# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from coltran import checkpoint, cli, networks
from coltran import evaluate as program
from coltran.errors import UserError
from coltran.evaluate import baseline_bits, evaluate, evaluate_checkpoint, gray_counts
from coltran.image import colors_to_labels, rgb_to_gray
from coltran.networks.losses import compute_losses
from coltran.training.data import eval_batches
from tests.tiny_training import whole_config, write_photos

NAMES = ["coltran_core", "color_upsampler", "spatial_upsampler"]


@pytest.fixture
def photos_dir(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


def _network(name: str = "coltran_core") -> torch.nn.Module:
    return networks.build(networks.model_config(whole_config(name))).eval()


def _saved(tmp_path: Path, name: str = "coltran_core") -> Path:
    checkpoint.save(_network(name), tmp_path / name, config=whole_config(name))
    return tmp_path / name


def _batches(folder: Path, name: str = "coltran_core", size: int = 4):
    return eval_batches(whole_config(name), folder, name, size, workers=0)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_the_mean_over_photographs(photos_dir, name):
    network, config = _network(name), whole_config(name)
    with torch.no_grad():
        each = [float(compute_losses(network, b, config, False)["loss"]) for b in _batches(photos_dir, name, 1)]
    assert evaluate(network, _batches(photos_dir, name), config)["loss"] == pytest.approx(np.mean(each), rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_batch_size_does_not_matter(photos_dir, name):
    network, config = _network(name), whole_config(name)
    results = [evaluate(network, _batches(photos_dir, name, size), config) for size in (1, 2, 5)]
    assert all(result == pytest.approx(results[0], rel=1e-5) for result in results)


def test_the_colorizer_reports_both_heads(photos_dir):
    results = evaluate(_network(), _batches(photos_dir), whole_config())
    assert (list(results), results["photos"]) == (["photos", "loss", "encoder"], 5)


def test_counts_are_those_of_a_loop_over_pixels(photos_dir):
    expected = np.zeros((256, 512), dtype=np.int64)
    for batch in _batches(photos_dir):
        for pixel in batch["rgb"].reshape(-1, 3).numpy():
            expected[int(rgb_to_gray(pixel)), int(colors_to_labels(pixel // 32))] += 1
    np.testing.assert_array_equal(gray_counts(_batches(photos_dir)), expected)


def test_the_baseline_is_the_cross_entropy_under_add_one_smoothing():
    train, test = torch.zeros(2, 256, 512, dtype=torch.int64)
    train[7, 3], train[7, 4] = 5, 2
    test[7, 3], test[7, 9] = 2, 1
    expected = -(2 * math.log2(6 / 519) + math.log2(1 / 519)) / 3
    assert baseline_bits(train, test) == pytest.approx(expected, rel=1e-12)


def test_a_gray_level_never_seen_costs_nine_bits():
    test = torch.zeros(256, 512, dtype=torch.int64)
    test[0, 0] = 1
    assert baseline_bits(torch.zeros_like(test), test) == pytest.approx(9.0, rel=1e-12)


def test_much_counting_approaches_the_entropy_given_the_gray_level():
    counts = torch.zeros(256, 512, dtype=torch.int64)
    counts[1, :4], counts[2, 5] = 10**9, 10**9  # two bits at gray 1, none at gray 2
    assert baseline_bits(counts, counts) == pytest.approx(2 * 4 / 5, abs=1e-4)


def test_a_checkpoint_is_measured_with_the_weights_it_holds(photos_dir, tmp_path):
    saved = _saved(tmp_path)
    direct = evaluate(checkpoint.load(saved), _batches(photos_dir), whole_config())
    assert evaluate_checkpoint(saved, photos_dir, workers=0)["loss"] == direct["loss"]


def test_the_baseline_stands_beside_the_colorizer(photos_dir, tmp_path):
    train_dir = write_photos(tmp_path / "train", 3)
    results = evaluate_checkpoint(_saved(tmp_path), photos_dir, train_dir=train_dir, workers=0)
    expected = baseline_bits(gray_counts(_batches(train_dir)), gray_counts(_batches(photos_dir)))
    assert (results["baseline"], results["baseline_pixels"]) == (expected, 3 * 8 * 8)


def test_the_baseline_is_the_colorizers_alone(photos_dir, tmp_path):
    with pytest.raises(UserError, match="color_upsampler"):
        evaluate_checkpoint(_saved(tmp_path, "color_upsampler"), photos_dir, train_dir=photos_dir)


def test_weights_without_a_whole_configuration_cannot_be_evaluated(photos_dir, tmp_path):
    checkpoint.save(_network(), tmp_path / "bare")
    with pytest.raises(UserError, match="lacks resolution and eval_batch_size"):
        evaluate_checkpoint(tmp_path / "bare", photos_dir)


def test_the_last_line_of_the_program_is_json(photos_dir, tmp_path, monkeypatch, capsys):
    argv = ["--checkpoint", str(_saved(tmp_path)), "--data_dir", str(photos_dir), "--limit", "3", "--workers", "0"]
    monkeypatch.setattr(sys, "argv", ["evaluate", *argv])
    with pytest.raises(SystemExit) as exit_:
        cli.run(program.main)
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (exit_.value.code, line["photos"], line["model"]) == (0, 3, "coltran_core")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--checkpoint", "x", "--output", "y"], "--output is for --metrics"),
        (["--checkpoint", "x", "--results", "y"], "--results is for --metrics"),
        (["--checkpoint", "x", "--seed", "0"], "--seed is for --metrics"),
        (["--checkpoint", "x", "--protocol", "A"], "--protocol is for --metrics"),
        (["--checkpoint", "x", "--samples", "9"], "--samples is for --metrics"),
        (["--metrics", "--train_dir", "x"], "are not for --metrics"),
        (["--metrics", "--precision", "bfloat16"], "are not for --metrics"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused(monkeypatch, capsys, given, says):
    monkeypatch.setattr(sys, "argv", ["evaluate", "--data_dir", "photos", *given])
    with pytest.raises(SystemExit) as exit_:
        cli.run(program.main)
    assert exit_.value.code == 2 and says in capsys.readouterr().err
