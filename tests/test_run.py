# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints an evaluation takes, and in what order."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from coltran import checkpoint, networks
from coltran import run as program
from coltran.checkpoint import CheckpointError
from coltran.errors import UsageError
from coltran.run import evaluate_checkpoints, next_checkpoint
from tests.ranks import Ended, run_ranks
from tests.tf_bundle import tensors_of, write_bundle
from tests.tiny_training import whole_config, write_photos


@pytest.fixture
def save(tmp_path: Path) -> Callable[[int], Path]:
    """`save(step)` writes a checkpoint, as a training would, to the folder `log`."""
    config = whole_config()
    network = networks.build(networks.model_config(config))

    def write(step: int) -> Path:
        path = tmp_path / "log" / f"checkpoint-{step:06d}"
        checkpoint.save(network, path, config=config, training=({}, {"step": step, "weights_only": True}))
        return path

    return write


def _evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: dict[str, Callable[[], object]]) -> list[str]:
    """The names of the checkpoints that are evaluated, when `meanwhile[name]()` happens while `name` is."""
    evaluated: list[str] = []
    restore, evaluate = program.restore, program.evaluate

    def noting(config, path, device):
        restored = restore(config, path, device)
        evaluated.append(path.name)
        return restored

    def measured(*arguments):
        meanwhile.get(evaluated[-1], lambda: None)()
        return evaluate(*arguments)

    monkeypatch.setattr(program, "POLL", 0.01)
    monkeypatch.setattr(program, "restore", noting)
    monkeypatch.setattr(program, "evaluate", measured)
    photos = sorted(write_photos(tmp_path / "photos", 1).iterdir())
    config = whole_config(dataset="custom", eval_checkpoint_wait_secs=1)
    count = evaluate_checkpoints(config, tmp_path / "log", photos, "test", tensorboard=False, workers=0)
    assert count == len(evaluated)
    return evaluated


def test_an_evaluation_refuses_what_is_of_a_training_alone(tmp_path, monkeypatch):
    folders = [f"--logdir={tmp_path}", f"--data_dir={write_photos(tmp_path / 'photos', 1)}", "--dataset=custom"]
    argv = ["run", "--config=coltran/test_configs/colorizer.py", "--mode=eval_valid", *folders]
    monkeypatch.setattr(sys, "argv", [*argv, "--compile", "--precision=float32"])
    with pytest.raises(UsageError, match="--compile and --precision would have no effect"):
        program.main()


def test_the_newest_comes_first_and_then_each_later_one(tmp_path, monkeypatch, save):
    for step in (1, 2):
        save(step)
    while_2 = {"checkpoint-000002": lambda: [save(step) for step in (10, 4, 3)]}
    expected = [f"checkpoint-{step:06d}" for step in (2, 3, 4, 10)]
    assert _evaluate(tmp_path, monkeypatch, while_2) == expected


def test_several_processes_measure_what_one_does(tmp_path, save):
    """To the last digit that is printed and to the bit that TensorBoard is told, by the first of them alone."""
    save(1)
    photos = sorted(write_photos(tmp_path / "photos", 5).iterdir())
    config = whole_config(dataset="custom", eval_checkpoint_wait_secs=1, eval_batch_size=2)

    def work() -> None:
        assert evaluate_checkpoints(config, tmp_path / "log", photos, "test", workers=0) == 1

    (alone,) = run_ranks(1, work, tmp_path / "alone")
    first, second = run_ranks(2, work, tmp_path / "two")
    assert "Bits/Dim" in alone.said and first == alone
    assert second == Ended(0, "")
    one, two = (_scalars(file) for file in tmp_path.glob("log/eval_test_summaries_pyk_*/events.*"))
    assert one == two and one.keys() == {"loss", "total_loss"}


def _scalars(file: Path) -> dict[str, float]:
    """{name: its only value} of a file of summaries."""
    found = EventAccumulator(str(file)).Reload()
    return {name: found.Scalars(name)[0].value for name in found.Tags()["scalars"]}


def test_those_that_were_deleted_meanwhile_are_left_out(tmp_path, monkeypatch, save):
    save(1)
    while_1 = {"checkpoint-000001": lambda: [save(2), save(3), checkpoint.prune(tmp_path / "log", 1)]}
    assert _evaluate(tmp_path, monkeypatch, while_1) == ["checkpoint-000001", "checkpoint-000003"]


def test_one_that_vanishes_while_it_is_read_is_left_out(tmp_path, monkeypatch, save):
    save(1)
    second = save(2)
    load = checkpoint.load

    def vanishing(path):
        if path == second:
            shutil.rmtree(second)
        return load(path)

    monkeypatch.setattr(checkpoint, "load", vanishing)
    assert _evaluate(tmp_path, monkeypatch, {}) == ["checkpoint-000001"]


def test_a_damaged_one_ends_the_evaluation(tmp_path, monkeypatch, save):
    (save(1) / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        _evaluate(tmp_path, monkeypatch, {})


def test_a_millionth_step_comes_after_those_before(tmp_path, save):
    before, millionth = save(999_999), save(1_000_000)
    assert next_checkpoint(tmp_path / "log", before) == millionth
    assert next_checkpoint(tmp_path / "log", millionth) is None


def test_of_the_originals_checkpoints_the_newest_is_taken(tmp_path):
    tensors = tensors_of(networks.build(networks.model_config(whole_config())))
    for step in (8, 9):
        write_bundle(tmp_path / f"model-{step}", tensors)
        assert next_checkpoint(tmp_path, tmp_path / "model-7") == tmp_path / f"model-{step}"
    assert next_checkpoint(tmp_path, tmp_path / "model-9") is None
