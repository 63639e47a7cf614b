# SPDX-License-Identifier: Apache-2.0
"""Several processes train and evaluate as one does."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ml_collections import ConfigDict
from safetensors.torch import load_file

import coltran.train as program
from coltran import checkpoint
from coltran.devices import processes
from coltran.evaluate import evaluate_checkpoint
from coltran.train import train
from coltran.training.data import train_batches
from tests.ranks import Ended, run_ranks
from tests.tiny_training import whole_config, write_photos

ROOT = Path(__file__).resolve().parent.parent
STEPS = 20
ROUNDING = 1e-5
# The paper's learning rate: at a larger one, one of nine trainings had a rectifier whose input was within rounding of
# zero, and then differed by 1e-4.
PAPERS = {"type": "rmsprop", "learning_rate": 3e-4}
CASES = {
    "colorizer": whole_config(batch_size=4, optimizer=PAPERS, dropout=0.3),
    "color upsampler": whole_config("color_upsampler", batch_size=4, optimizer=PAPERS),
    "every channel": whole_config("spatial_upsampler", batch_size=4, optimizer=PAPERS, random_channel=False),
}
CASES["every channel"].model.dropout = 0.3


@pytest.fixture(scope="module")
def photos_dir(tmp_path_factory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photographs") / "photos", 7)


def _train(config: ConfigDict, logdir: Path, photos_dir: Path, steps: int = STEPS, **options: Any) -> int:
    config = ConfigDict(config.to_dict() | {"max_train_steps": steps})
    return train(config, logdir, photos_dir, steps_per_summaries=1, **({"workers": 0} | options))


def _ranks(count: int, *arguments: Any, **options: Any) -> list[Ended]:
    logdir = arguments[1]
    return run_ranks(count, functools.partial(_train, *arguments, **options), logdir.parent / f"{logdir.name}-said")


def _succeed(count: int, *arguments: Any, **options: Any) -> None:
    ended = _ranks(count, *arguments, **options)
    assert [end.code for end in ended] == [0] * count, ended


def _losses(logdir: Path) -> list[float]:
    return [json.loads(line)["total_loss"] for line in (logdir / "train.jsonl").read_text().splitlines()]


def _assert_same(ours: Path, theirs: Path, rounding: float = ROUNDING) -> None:
    """Losses of every step, and weights, averages and optimizer at the end."""
    assert _losses(ours) == pytest.approx(_losses(theirs), abs=rounding, rel=0)
    for file in ("model.safetensors", "training.safetensors"):
        found, expected = (load_file(checkpoint.find(logdir) / file) for logdir in (ours, theirs))
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=rounding, msg=name)


@pytest.fixture(scope="module")
def alone(photos_dir, tmp_path_factory):
    """`alone(case)`: the log directory of a case's training by one process."""

    @functools.cache
    def find(case: str) -> Path:
        logdir = tmp_path_factory.mktemp("alone") / "log"
        _train(CASES[case], logdir, photos_dir)
        return logdir

    return find


@pytest.mark.parametrize(("case", "count"), [("colorizer", 2), *((case, 4) for case in CASES)])
def test_so_many_processes_train_as_one(tmp_path, photos_dir, alone, case, count):
    _succeed(count, CASES[case], tmp_path / "log", photos_dir)
    assert len(_losses(tmp_path / "log")) == STEPS
    _assert_same(tmp_path / "log", alone(case))


def test_the_first_process_alone_writes(tmp_path, photos_dir):
    first, second = _ranks(2, CASES["colorizer"], tmp_path / "two", photos_dir, 2)
    _train(CASES["colorizer"], tmp_path / "one", photos_dir, 2)
    two, one = ({path.relative_to(d) for path in d.rglob("*")} for d in (tmp_path / "two", tmp_path / "one"))
    assert two == one
    assert len(_losses(tmp_path / "two")) == 2
    assert "Finished after step 2" in first.said
    assert second == Ended(0, "")


def test_parts_of_shares_are_the_whole_batch(tmp_path, photos_dir, alone):
    _succeed(2, CASES["colorizer"], tmp_path / "log", photos_dir, accumulate=2)
    _assert_same(tmp_path / "log", alone("colorizer"))


def test_a_training_goes_on_with_another_number_of_processes(tmp_path, photos_dir, alone):
    for count, steps in ((2, 6), (4, 13)):
        _succeed(count, CASES["colorizer"], tmp_path / "log", photos_dir, steps)
    _train(CASES["colorizer"], tmp_path / "log", photos_dir)
    _assert_same(tmp_path / "log", alone("colorizer"))


@pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="the processor multiplies no bfloat16")
@pytest.mark.filterwarnings("ignore:Products in bfloat16")
def test_two_processes_train_in_bfloat16(tmp_path, photos_dir, alone):
    """A rounded product is the same in any batch; the gradients of the weights are float32 sums of such."""
    _train(CASES["colorizer"], tmp_path / "one", photos_dir, precision="bfloat16")
    _succeed(2, CASES["colorizer"], tmp_path / "two", photos_dir, precision="bfloat16")
    assert _losses(tmp_path / "two") != pytest.approx(_losses(alone("colorizer")), abs=ROUNDING)
    assert _losses(tmp_path / "two") == pytest.approx(_losses(tmp_path / "one"), abs=2e-3)


def test_the_shares_of_a_batch_are_the_batch(photos_dir):
    def batches(*share):
        found = train_batches(CASES["color upsampler"], photos_dir, "color_upsampler", 3, 5, 0, *share)
        return [next(found) for _ in range(3)]

    parts = [batches((rank, 4)) for rank in range(4)]
    for whole, *shares in zip(batches(), *parts, strict=True):
        assert all(torch.equal(whole[name], torch.cat([share[name] for share in shares])) for name in whole)


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path, photos_dir):
    ended = _ranks(2, whole_config(batch_size=3), tmp_path / "log", photos_dir)
    assert [end.code for end in ended] == [1, 1]
    assert "config.batch_size must be a multiple of 2" in ended[0].said
    assert not (tmp_path / "log").exists()


def _gloo_threads() -> int:
    return sum("gloo" in path.read_text() for path in Path("/proc/self/task").glob("*/comm"))


def test_the_threads_of_the_group_end_when_the_processes_part(tmp_path, photos_dir):
    """One that still holds a tensor while Python ends would end the process by SIGABRT."""

    def work() -> int:
        part = dist.destroy_process_group

        def part_between_counts() -> None:
            before = _gloo_threads()
            part()
            print(before > 0, _gloo_threads())

        dist.destroy_process_group = part_between_counts
        return _train(CASES["colorizer"], tmp_path / "log", photos_dir, 2)

    ended = run_ranks(2, work, tmp_path / "said")
    assert [end.said.splitlines()[-1] for end in ended] == ["True 0"] * 2


def test_log_directories_that_differ_are_refused(tmp_path, photos_dir):
    _train(CASES["colorizer"], tmp_path / "first", photos_dir, 1)

    def work() -> int:
        logdir = tmp_path / ("second" if processes.rank() else "first")
        return _train(CASES["colorizer"], logdir, photos_dir)

    ended = run_ranks(2, work, tmp_path / "said")
    assert [end.code for end in ended] == [1, 1]
    assert "has to be a folder that all processes see" in ended[1].said


def _dying(number: int, step: int, *arguments: Any, **options: Any) -> int:
    """A training in which process 1 sends itself a signal before a step."""
    take_step = program.take_step

    def dying_step(training, batch):
        if training.step == step and processes.rank() == 1:
            os.kill(os.getpid(), number)
        return take_step(training, batch)

    program.take_step = dying_step
    return _train(*arguments, **options)


def test_a_process_that_dies_ends_the_others_with_a_sentence(tmp_path, photos_dir, alone):
    arguments = (CASES["colorizer"], tmp_path / "log", photos_dir)
    work = functools.partial(_dying, signal.SIGKILL, 7, *arguments, save_every_steps=5)
    first, second = run_ranks(2, work, tmp_path / "said")
    assert (first.code, second.code) == (1, -signal.SIGKILL)
    assert first.said.splitlines()[-1] == (
        "Process 0 of 2 stops, as another one has ended; the checkpoints before remain."
    )
    assert [path.name for path in checkpoint.numbered(tmp_path / "log")] == ["checkpoint-000005"]
    _train(*arguments)
    _assert_same(tmp_path / "log", alone("colorizer"))


def test_a_signal_to_one_process_stops_all_at_the_same_step(tmp_path, photos_dir):
    work = functools.partial(_dying, signal.SIGTERM, 7, CASES["colorizer"], tmp_path / "log", photos_dir)
    ended = run_ranks(2, work, tmp_path / "said")
    assert [end.code for end in ended] == [128 + signal.SIGTERM] * 2
    assert checkpoint.find(tmp_path / "log").name == "checkpoint-000008"


DYING = """
import os, signal, sys, threading, time
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.test_processes import CASES, STEPS

def die():
    while not Path({checkpoint!r}).exists():
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)

def get_config():
    if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == ("1", "0"):
        threading.Thread(target=die, daemon=True).start()
    config = CASES["color upsampler"]
    config.max_train_steps = STEPS
    return config
"""


def test_torchrun_goes_on_from_the_last_checkpoint_after_a_process_was_killed(tmp_path, photos_dir, alone):
    config, logdir = tmp_path / "config.py", tmp_path / "log"
    config.write_text(DYING.format(root=str(ROOT), checkpoint=str(logdir / "checkpoint-000004")))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    flags = [f"--config={config}", f"--logdir={logdir}", f"--data_dir={photos_dir}", "--save_every_steps=4"]
    flags += ["--steps_per_summaries=1", "--workers=0", "--threads=1"]
    command = [*torchrun, "--max-restarts=1", "-m", "coltran.train", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "from the start, 2 processes" in done.stdout
    assert re.search(f"from {logdir}/checkpoint-0000(04|08|12|16), 2 processes", done.stdout)
    _assert_same(logdir, alone("color upsampler"))


@pytest.mark.parametrize("count", [2, 3])
def test_the_figures_of_an_evaluation_do_not_depend_on_the_number_of_processes(tmp_path, photos_dir, alone, count):
    """To the bit. Of three processes the last one has no batch."""
    options: dict[str, Any] = {"train_dir": photos_dir, "workers": 0}
    expected = evaluate_checkpoint(alone("colorizer"), photos_dir, **options)

    def work() -> None:
        print(json.dumps(evaluate_checkpoint(alone("colorizer"), photos_dir, **options)))

    ended = run_ranks(count, work, tmp_path / "said")
    assert [json.loads(end.said) for end in ended] == [expected] * count


def test_photographs_that_none_of_the_processes_can_read_are_an_error(tmp_path, alone):
    for name in "abcdefg":
        (tmp_path / f"{name}.png").write_bytes(b"no photograph")
    work = functools.partial(evaluate_checkpoint, alone("colorizer"), tmp_path, workers=0)
    ended = run_ranks(2, work, tmp_path / "said")
    assert [(end.code, end.said.splitlines()[-1]) for end in ended] == [
        (1, "None of the photographs can be read."),
    ] * 2


def test_processes_do_not_take_an_earlier_start_for_the_present_one():
    """Process 1 comes to a store in which the processes 0 and 1 of an earlier start have met."""
    store = dist.HashStore()
    with ThreadPoolExecutor(2) as threads:
        for start in range(3):
            second = threads.submit(processes._unused, store, 1, 2)
            time.sleep(0.1)
            assert not second.done()
            first = threads.submit(processes._unused, store, 0, 2)
            first.result(10).set("greeting", f"start {start}")
            assert second.result(10).get("greeting") == f"start {start}".encode()
