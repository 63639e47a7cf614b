# SPDX-License-Identifier: Apache-2.0
"""A training that stops and goes on is, to the bit, the training that never stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from ml_collections import ConfigDict
from safetensors.torch import load_file

from coltran.train import train
from coltran.training.step import start, take_step
from tests.tiny_training import whole_config, write_photos

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def photos_dir(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


def _train(config: ConfigDict, logdir: Path, photos_dir: Path, steps: int, **options: Any) -> int:
    config = ConfigDict(config.to_dict() | {"max_train_steps": steps})
    return train(config, logdir, photos_dir, steps_per_summaries=1, **({"workers": 0} | options))


def _losses(logdir: Path) -> list[tuple[int, float, float]]:
    lines = [json.loads(line) for line in (logdir / "train.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["total_loss"]) for line in lines]


def _assert_same_tensors(a: Path, b: Path, steps: int = 6) -> None:
    for file in ("model.safetensors", "training.safetensors"):
        ours, theirs = (load_file(logdir / f"checkpoint-{steps:06d}" / file) for logdir in (a, b))
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


CASES = {
    "colorizer": whole_config(),
    "dropout": whole_config(dropout=0.3),
    "without average": whole_config(polyak_decay=0.0),
    "adam": whole_config(optimizer={"type": "adam"}),
    "sgd": whole_config(optimizer={"type": "sgd", "momentum": 0.9}),
    "color upsampler": whole_config("color_upsampler"),
    "spatial upsampler": whole_config("spatial_upsampler"),
    "prepared": whole_config(prepare_photographs=4),
    "schedule": whole_config(
        optimizer={"type": "rmsprop", "learning_rate": 1e-2, "schedule": "cosine", "decay_steps": 6, "warmup_steps": 2}
    ),
    "every channel": whole_config("color_upsampler", random_channel=False),
}


@pytest.mark.parametrize("case", CASES)
def test_three_steps_and_three_more_are_six(tmp_path, photos_dir, case):
    _train(CASES[case], tmp_path / "whole", photos_dir, 6)
    for steps in (3, 6):
        _train(CASES[case], tmp_path / "parts", photos_dir, steps)
    assert _losses(tmp_path / "parts") == _losses(tmp_path / "whole")
    _assert_same_tensors(tmp_path / "parts", tmp_path / "whole")


def test_dropout_differs_from_step_to_step():
    batch = {"rgb": torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)}

    def two_losses(dropout: float) -> list[float]:
        """Of weights that stand still."""
        config = whole_config(dropout=dropout, optimizer={"type": "sgd", "learning_rate": 1e-12})
        training = start(config, 0, torch.device("cpu"))
        return [float(take_step(training, batch)["loss"]) for _ in range(2)]

    first, second = two_losses(0.3)
    assert first != second
    first, second = two_losses(0.0)
    assert first == pytest.approx(second, rel=1e-6)


def test_dropout_differs_from_no_dropout(tmp_path, photos_dir):
    """Without this the case with dropout above could pass with dropout that does nothing."""
    losses = {}
    for name, dropout in (("with", 0.3), ("without", 0.0)):
        config = whole_config(dropout=dropout, optimizer={"type": "sgd", "learning_rate": 1e-12}, batch_size=5)
        _train(config, tmp_path / name, photos_dir, 1)
        losses[name] = _losses(tmp_path / name)
    assert losses["with"] != losses["without"]


def test_a_crash_between_two_checkpoints_repeats_the_steps_in_between(tmp_path, photos_dir):
    logdir = tmp_path / "crashed"
    _train(whole_config(), tmp_path / "whole", photos_dir, 6)
    _train(whole_config(), logdir, photos_dir, 3)
    lost = (tmp_path / "whole" / "train.jsonl").read_text().splitlines(keepends=True)[3:5]
    with open(logdir / "train.jsonl", "a", encoding="utf-8") as file:
        file.write("".join(lost) + '{"step": 6, "lo')
    _train(whole_config(), logdir, photos_dir, 6)
    assert _losses(logdir) == _losses(tmp_path / "whole")


def test_the_number_of_workers_does_not_matter(tmp_path, photos_dir):
    _train(whole_config(), tmp_path / "whole", photos_dir, 6)
    _train(whole_config(), tmp_path / "parts", photos_dir, 3, workers=2)
    _train(whole_config(), tmp_path / "parts", photos_dir, 6, workers=1)
    _assert_same_tensors(tmp_path / "parts", tmp_path / "whole")


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
sys.path.insert(0, {root!r})
from tests.tiny_training import whole_config
def get_config():
    return whole_config(dropout=0.2, max_train_steps={steps})
"""


def _command(tmp_path: Path, photos_dir: Path, steps: int) -> list[str]:
    config = tmp_path / f"config{steps}.py"
    config.write_text(PROGRAM.format(tests=str(ROOT / "tests"), root=str(ROOT), steps=steps))
    flags = [f"--config={config}", f"--logdir={tmp_path / 'log'}", f"--data_dir={photos_dir}"]
    return [sys.executable, "-m", "coltran.train", *flags, "--steps_per_summaries=1", "--threads=1"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_same_command_goes_on(tmp_path, photos_dir, number, code):
    summaries = tmp_path / "log" / "train.jsonl"
    process = subprocess.Popen(
        _command(tmp_path, photos_dir, 100_000), cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 300  # on a busy machine to start takes long
    while not summaries.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(120) == code

    stopped = _losses(tmp_path / "log")[-1][0]
    assert (tmp_path / "log" / f"checkpoint-{stopped:06d}").is_dir()
    subprocess.run(_command(tmp_path, photos_dir, stopped + 2), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    _train(whole_config(dropout=0.2), tmp_path / "whole", photos_dir, stopped + 2)
    assert _losses(tmp_path / "log") == _losses(tmp_path / "whole")
    _assert_same_tensors(tmp_path / "log", tmp_path / "whole", stopped + 2)


def test_what_a_training_killed_at_its_end_left_is_cleared_by_the_next_start(tmp_path, photos_dir):
    _train(whole_config(), tmp_path / "log", photos_dir, 6, save_every_steps=1)
    there = {path.name for path in (tmp_path / "log").iterdir()}
    (tmp_path / "log" / ".writing-checkpoint-000003").mkdir()
    (tmp_path / "log" / "checkpoint-000002").mkdir()
    _train(whole_config(), tmp_path / "log", photos_dir, 6, save_every_steps=1)
    assert {path.name for path in (tmp_path / "log").iterdir()} == there
