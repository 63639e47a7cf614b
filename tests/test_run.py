# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints an evaluation takes, and in what order."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from coltran import checkpoint, networks, run
from coltran.checkpoint import CheckpointError
from coltran.run import evaluate_checkpoints, next_checkpoint
from tests.forked import Ended, run_ranks
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


@pytest.fixture
def evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """`evaluated({step: work})`: the steps of what is evaluated, in order; meanwhile `work` happens."""
    steps: list[int] = []
    restore, evaluate = run.restore, run.evaluate

    def noting(config, path, device):
        restored = restore(config, path, device)
        steps.append(int(path.name.removeprefix("checkpoint-")))
        return restored

    def find(meanwhile: dict[int, Callable[[], object]]) -> list[int]:
        monkeypatch.setattr(run, "POLL", 0.01)
        monkeypatch.setattr(run, "restore", noting)
        monkeypatch.setattr(run, "evaluate", lambda *given: (meanwhile.get(steps[-1], int)(), evaluate(*given))[1])
        photos = sorted(write_photos(tmp_path / "photos", 1).iterdir())
        config = whole_config(dataset="custom", eval_checkpoint_wait_secs=1)
        count = evaluate_checkpoints(config, tmp_path / "log", photos, "test", tensorboard=False, workers=0)
        assert count == len(steps)
        return steps

    return find


def test_an_evaluation_refuses_what_is_of_a_training_alone(tmp_path, photos_dir, program, capsys):
    folders = [f"--logdir={tmp_path}", f"--data_dir={photos_dir}", "--dataset=custom"]
    argv = ["--config=coltran/test_configs/colorizer.py", "--mode=eval_valid", *folders]
    assert program(run.main, *argv, "--compile", "--precision=float32") == 2
    assert "--compile and --precision would have no effect" in capsys.readouterr().err


def test_the_newest_comes_first_and_then_each_later_one(evaluated, save):
    for step in (1, 2):
        save(step)
    assert evaluated({2: lambda: [save(step) for step in (10, 4, 3)]}) == [2, 3, 4, 10]


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


def test_those_that_were_deleted_meanwhile_are_left_out(tmp_path, evaluated, save):
    save(1)
    assert evaluated({1: lambda: [save(2), save(3), checkpoint.prune(tmp_path / "log", 1)]}) == [1, 3]


def test_one_that_vanishes_while_it_is_read_is_left_out(monkeypatch, evaluated, save):
    save(1)
    second = save(2)
    load = checkpoint.load

    def vanishing(path):
        if path == second:
            shutil.rmtree(second)
        return load(path)

    monkeypatch.setattr(checkpoint, "load", vanishing)
    assert evaluated({}) == [1]


def test_a_damaged_one_ends_the_evaluation(evaluated, save):
    (save(1) / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        evaluated({})


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
