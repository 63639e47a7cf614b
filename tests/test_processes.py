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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

import coltran.train as program
from coltran import checkpoint
from coltran.devices import processes
from coltran.evaluate import evaluate_checkpoint
from coltran.training.data import train_batches
from tests.forked import Ended, run_ranks
from tests.tiny_training import assert_same_training, losses_of, train_to, whole_config, write_photos

ROOT = Path(__file__).resolve().parent.parent
STEPS = 12
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


@pytest.fixture
def ranks(tmp_path) -> Callable[..., list[Ended]]:
    """`ranks(count, work)` calls `work` in so many processes that work together."""
    return lambda count, work: run_ranks(count, work, tmp_path / "said")


@pytest.fixture
def training(tmp_path, photos_dir) -> Callable[..., Callable[[], int]]:
    """`training(case, steps, logdir, ...)`: a training by each process that calls it, into the folder `log`."""

    def find(case: str = "colorizer", steps: int = STEPS, logdir: str = "log", **options: Any) -> Callable[[], int]:
        return functools.partial(train_to, steps, CASES[case], tmp_path / logdir, photos_dir, **options)

    return find


@pytest.fixture(scope="module")
def alone(photos_dir, tmp_path_factory):
    """`alone(case)`: the log directory of a case's training by one process."""

    @functools.cache
    def find(case: str) -> Path:
        logdir = tmp_path_factory.mktemp("alone") / "log"
        train_to(STEPS, CASES[case], logdir, photos_dir)
        return logdir

    return find


@pytest.mark.parametrize(
    ("case", "count", "accumulate"),
    [("color upsampler", 2, 1), ("colorizer", 4, 1), ("every channel", 4, 1), ("colorizer", 2, 2)],
)
def test_so_many_processes_train_as_one(tmp_path, ranks, training, alone, case, count, accumulate):
    """Also in parts of their shares."""
    expected = alone(case)
    assert {end.code for end in ranks(count, training(case, accumulate=accumulate))} == {0}
    assert len(losses_of(tmp_path / "log")) == STEPS
    assert_same_training(tmp_path / "log", expected, ROUNDING)


def test_the_first_process_alone_writes(tmp_path, ranks, training):
    training(steps=2, logdir="one")()
    first, second = ranks(2, training(steps=2))
    two, one = ({path.relative_to(d) for path in d.rglob("*")} for d in (tmp_path / "log", tmp_path / "one"))
    assert two == one
    assert len(losses_of(tmp_path / "log")) == 2
    assert "Finished after step 2" in first.said
    assert second == Ended(0, "")


def test_a_training_goes_on_with_another_number_of_processes(tmp_path, ranks, training, alone):
    expected = alone("colorizer")
    for count, steps in ((2, 4), (4, 8)):
        assert {end.code for end in ranks(count, training(steps=steps))} == {0}
    training()()
    assert_same_training(tmp_path / "log", expected, ROUNDING)


@pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="the processor multiplies no bfloat16")
@pytest.mark.filterwarnings("ignore:Products in bfloat16")
def test_two_processes_train_in_bfloat16(tmp_path, ranks, training, alone):
    """A rounded product is the same in any batch; the gradients of the weights are float32 sums of such."""
    training(logdir="one", precision="bfloat16")()
    assert {end.code for end in ranks(2, training(precision="bfloat16"))} == {0}
    two, one, exact = (
        np.array(losses_of(logdir)) for logdir in (tmp_path / "log", tmp_path / "one", alone("colorizer"))
    )
    assert np.abs(two - exact).max() > ROUNDING
    np.testing.assert_allclose(two, one, rtol=0, atol=2e-3)


def test_the_shares_of_a_batch_are_the_batch(photos_dir):
    def batches(*share):
        found = train_batches(CASES["color upsampler"], photos_dir, "color_upsampler", 3, 5, 0, *share)
        return [next(found) for _ in range(3)]

    parts = [batches((rank, 4)) for rank in range(4)]
    for whole, *shares in zip(batches(), *parts, strict=True):
        assert all(torch.equal(whole[name], torch.cat([share[name] for share in shares])) for name in whole)


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path, ranks, photos_dir):
    ended = ranks(2, lambda: train_to(1, whole_config(batch_size=3), tmp_path / "log", photos_dir))
    assert [end.code for end in ended] == [1, 1]
    assert "config.batch_size must be a multiple of 2" in ended[0].said
    assert not (tmp_path / "log").exists()


def _gloo_threads() -> int:
    return sum("gloo" in path.read_text() for path in Path("/proc/self/task").glob("*/comm"))


def test_the_threads_of_the_group_end_when_the_processes_part(ranks, training):
    """One that still holds a tensor while Python ends would end the process by SIGABRT."""

    def work() -> int:
        part = dist.destroy_process_group

        def part_between_counts() -> None:
            before = _gloo_threads()
            part()
            print(before > 0, _gloo_threads())

        dist.destroy_process_group = part_between_counts
        return training(steps=2)()

    assert [end.said.splitlines()[-1] for end in ranks(2, work)] == ["True 0"] * 2


def test_log_directories_that_differ_are_refused(ranks, training):
    training(steps=1, logdir="0")()
    ended = ranks(2, lambda: training(logdir=str(processes.rank()))())
    assert [end.code for end in ended] == [1, 1]
    assert "has to be a folder that all processes see" in ended[1].said


def _dying(number: int, work: Callable[[], int]) -> int:
    """A training in which process 1 sends itself a signal before step 7."""
    take_step = program.take_step

    def dying_step(training, batch):
        if training.step == 7 and processes.rank() == 1:
            os.kill(os.getpid(), number)
        return take_step(training, batch)

    program.take_step = dying_step
    return work()


def test_a_process_that_dies_ends_the_others_with_a_sentence(tmp_path, ranks, training, alone):
    expected = alone("colorizer")
    first, second = ranks(2, lambda: _dying(signal.SIGKILL, training(save_every_steps=5)))
    assert (first.code, second.code) == (1, -signal.SIGKILL)
    assert first.said.splitlines()[-1] == (
        "Process 0 of 2 stops, as another one has ended; the checkpoints before remain."
    )
    assert [path.name for path in checkpoint.numbered(tmp_path / "log")] == ["checkpoint-000005"]
    training()()
    assert_same_training(tmp_path / "log", expected, ROUNDING)


def test_a_signal_to_one_process_stops_all_at_the_same_step(tmp_path, ranks, training):
    ended = ranks(2, lambda: _dying(signal.SIGTERM, training()))
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
    assert re.search(f"from {logdir}/checkpoint-0000(04|08), 2 processes", done.stdout)
    assert_same_training(logdir, alone("color upsampler"), ROUNDING)


@pytest.mark.parametrize("count", [2, 3])
def test_the_figures_of_an_evaluation_do_not_depend_on_the_number_of_processes(ranks, photos_dir, alone, count):
    """To the bit. Of three processes the last one has no batch."""
    measure = functools.partial(evaluate_checkpoint, alone("colorizer"), photos_dir, train_dir=photos_dir, workers=0)
    expected = measure()
    assert [json.loads(end.said) for end in ranks(count, lambda: print(json.dumps(measure())))] == [expected] * count


def test_photographs_that_none_of_the_processes_can_read_are_an_error(tmp_path, ranks, alone):
    for name in "abcdefg":
        (tmp_path / f"{name}.png").write_bytes(b"no photograph")
    ended = ranks(2, functools.partial(evaluate_checkpoint, alone("colorizer"), tmp_path, workers=0))
    assert {(end.code, end.said.splitlines()[-1]) for end in ended} == {(1, "None of the photographs can be read.")}


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
