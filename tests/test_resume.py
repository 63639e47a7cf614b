# SPDX-License-Identifier: Apache-2.0
"""A training that stops and goes on is, to the bit, the training that never stopped."""

from __future__ import annotations

import functools
import signal
from importlib.util import find_spec

import pytest
import torch

import coltran.train as program
from coltran import cli
from coltran.devices import choose
from coltran.training.step import start, take_step
from tests.forked import run_forked
from tests.tiny_training import assert_same_training, losses_of, train_to, whole_config

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
    "guide": whole_config(
        "guide", loss_share=0.25, random_levels=0.5, random_degradation=0.5, source_limits={"p00": 0.2}
    ),
    "every channel": whole_config("color_upsampler", random_channel=False),
    "bfloat16": whole_config(),
}


@pytest.mark.parametrize("case", CASES)
def test_three_steps_and_three_more_are_six(tmp_path, photos_dir, case, monkeypatch):
    options = {"precision": "bfloat16"} if case == "bfloat16" else {}
    if options:  # without units for it torch computes in bfloat16 all the same, only slowly
        monkeypatch.setattr(choose, "_has_bfloat16", lambda device: True)
        monkeypatch.setattr(choose, "_product_seconds", lambda device, dtype: 1.0)
        weights = start(CASES[case], 0, torch.device("cpu"), "bfloat16").network.parameters()
        assert {weight.dtype for weight in weights} == {torch.float32}
    train_to(6, CASES[case], tmp_path / "whole", photos_dir, **options)
    for steps in (3, 6):
        train_to(steps, CASES[case], tmp_path / "parts", photos_dir, **options)
    assert_same_training(tmp_path / "parts", tmp_path / "whole")


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


@pytest.fixture
def whole(tmp_path, photos_dir):
    """The log directory of a training of six steps that never stopped."""
    train_to(6, whole_config(dropout=0.2), tmp_path / "whole", photos_dir)
    return tmp_path / "whole"


@pytest.fixture
def go_on(tmp_path, photos_dir):
    """`go_on(steps, ...)` trains likewise in the folder `log`."""
    return functools.partial(train_to, config=whole_config(dropout=0.2), logdir=tmp_path / "log", photos_dir=photos_dir)


def test_a_crash_between_two_checkpoints_repeats_the_steps_in_between(tmp_path, whole, go_on):
    go_on(3)
    lost = (whole / "train.jsonl").read_text().splitlines(keepends=True)[3:5]
    with open(tmp_path / "log" / "train.jsonl", "a", encoding="utf-8") as file:
        file.write("".join(lost) + '{"step": 6, "lo')
    go_on(6)
    assert losses_of(tmp_path / "log") == losses_of(whole)


def test_the_number_of_workers_does_not_matter(tmp_path, whole, go_on):
    go_on(3, workers=2)
    go_on(6, workers=1)
    assert_same_training(tmp_path / "log", whole)


@pytest.mark.skipif(find_spec("torch_xla") is not None, reason="a process that has used XLA cannot be forked to train")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_same_training_goes_on(tmp_path, whole, go_on, number, code):
    def stopped_step(training, batch):
        if training.step == 2:
            signal.raise_signal(number)
        return take_step(training, batch)

    def work() -> None:
        program.take_step = stopped_step
        cli.run(lambda: go_on(6, workers=2))

    (ended,) = run_forked([work], tmp_path / "said")
    assert ended.code == code
    assert (tmp_path / "log" / "checkpoint-000003").is_dir() and len(losses_of(tmp_path / "log")) == 3
    go_on(6)
    assert_same_training(tmp_path / "log", whole)


def test_what_a_training_killed_at_its_end_left_is_cleared_by_the_next_start(tmp_path, go_on):
    go_on(6, save_every_steps=1)
    there = {path.name for path in (tmp_path / "log").iterdir()}
    (tmp_path / "log" / ".writing-checkpoint-000003").mkdir()
    (tmp_path / "log" / "checkpoint-000002").mkdir()
    go_on(6, save_every_steps=1)
    assert {path.name for path in (tmp_path / "log").iterdir()} == there
