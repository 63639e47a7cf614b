# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from coltran import checkpoint, networks
from coltran.errors import UserError
from coltran.evaluate import baseline_bits, evaluate, evaluate_checkpoint, gray_counts, main
from coltran.image import colors_to_labels, rgb_to_gray
from coltran.networks.losses import compute_losses
from coltran.training.data import eval_batches
from tests.tiny_training import whole_config, write_photos


def _network(name: str = "coltran_core") -> torch.nn.Module:
    return networks.build(networks.model_config(whole_config(name))).eval()


def _saved(tmp_path: Path, name: str = "coltran_core") -> Path:
    checkpoint.save(_network(name), tmp_path / name, config=whole_config(name))
    return tmp_path / name


def _batches(folder: Path, name: str = "coltran_core", size: int = 4):
    return eval_batches(whole_config(name), folder, name, size, workers=0)


@pytest.mark.parametrize("name", ["coltran_core", "color_upsampler", "spatial_upsampler"])
def test_the_loss_is_the_mean_over_photographs_whatever_the_batch_size(photos_dir, name):
    network, config = _network(name), whole_config(name)
    with torch.no_grad():
        each = [float(compute_losses(network, b, config, False)["loss"]) for b in _batches(photos_dir, name, 1)]
    results = [evaluate(network, _batches(photos_dir, name, size), config) for size in (1, 2, 5)]
    assert results[0]["loss"] == pytest.approx(np.mean(each), rel=1e-6)
    assert all(result == pytest.approx(results[0], rel=1e-5) for result in results)
    heads = ["loss", "encoder"] if name == "coltran_core" else ["loss"]
    assert (list(results[0]), results[0]["photos"]) == (["photos", *heads], 5)


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
    assert baseline_bits(torch.zeros_like(test), test) == pytest.approx(9.0, rel=1e-12)  # a gray level never seen
    many = torch.zeros(256, 512, dtype=torch.int64)
    many[1, :4], many[2, 5] = 10**9, 10**9  # two bits at gray 1, none at gray 2
    assert baseline_bits(many, many) == pytest.approx(2 * 4 / 5, abs=1e-4)


def test_a_checkpoint_is_measured_with_its_weights_beside_the_baseline(photos_dir, tmp_path):
    saved, train_dir = _saved(tmp_path), write_photos(tmp_path / "train", 3)
    results = evaluate_checkpoint(saved, photos_dir, train_dir=train_dir, workers=0)
    assert results["loss"] == evaluate(checkpoint.load(saved), _batches(photos_dir), whole_config())["loss"]
    expected = baseline_bits(gray_counts(_batches(train_dir)), gray_counts(_batches(photos_dir)))
    assert (results["baseline"], results["baseline_pixels"]) == (expected, 3 * 8 * 8)


def test_the_baseline_is_the_colorizers_alone_and_bare_weights_cannot_be_evaluated(photos_dir, tmp_path):
    with pytest.raises(UserError, match="color_upsampler"):
        evaluate_checkpoint(_saved(tmp_path, "color_upsampler"), photos_dir, train_dir=photos_dir)
    checkpoint.save(_network(), tmp_path / "bare")
    with pytest.raises(UserError, match=r"config\.yaml cannot be evaluated: config lacks resolution"):
        evaluate_checkpoint(tmp_path / "bare", photos_dir)


def test_the_last_line_of_the_program_is_json(photos_dir, tmp_path, program, capsys):
    argv = ["--checkpoint", _saved(tmp_path), "--data_dir", photos_dir, "--limit", 3, "--workers", 0]
    assert program(main, *argv) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (line["photos"], line["model"]) == (3, "coltran_core")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        *(
            (["--checkpoint", "x", f"--{name}", value], f"--{name} is for --metrics")
            for name, value in {"output": "y", "results": "y", "seed": "0", "protocol": "A", "samples": "9"}.items()
        ),
        (["--metrics", "--train_dir", "x"], "are not for --metrics"),
        (["--metrics", "--precision", "bfloat16"], "are not for --metrics"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused(program, capsys, given, says):
    assert program(main, "--data_dir", "photos", *given) == 2
    assert says in capsys.readouterr().err
