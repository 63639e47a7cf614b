# SPDX-License-Identifier: Apache-2.0
"""One thread while others want the processors, all when they are calm again, and in the end as before."""

from __future__ import annotations

import time

import pytest
import torch

from coltran.sampling import threads
from coltran.sampling.threads import CALM, INTERVAL, Threads

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """`clock(share)`: an interval passes, of which the thread has had that share of a processor."""
    now = {"wall": 0.0, "used": 0.0}
    monkeypatch.setattr(threads.time, "perf_counter", lambda: now["wall"])
    monkeypatch.setattr(threads.time, "thread_time", lambda: now["used"])

    def passes(share, seconds=2 * INTERVAL):
        now["wall"] += seconds
        now["used"] += share * seconds

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield passes
    torch.set_num_threads(before)


def test_one_thread_works_while_the_processors_are_busy_and_all_when_they_stay_calm(clock):
    with Threads(CPU) as team:
        clock(1.0)
        team.look()
        assert torch.get_num_threads() == 3
        clock(0.5)
        team.look()
        assert torch.get_num_threads() == 1
        for _ in range(CALM):
            assert torch.get_num_threads() == 1
            clock(1.0)
            team.look()
        assert torch.get_num_threads() == 3


def test_a_short_interval_says_nothing(clock):
    with Threads(CPU) as team:
        clock(0.0, INTERVAL / 2)
        team.look()
        assert torch.get_num_threads() == 3


def test_the_threads_are_as_before_in_the_end(clock):
    with pytest.raises(KeyboardInterrupt), Threads(CPU) as team:
        clock(0.1)
        team.look()
        assert torch.get_num_threads() == 1
        raise KeyboardInterrupt
    assert torch.get_num_threads() == 3


def test_one_thread_stays_one(clock):
    torch.set_num_threads(1)
    with Threads(CPU) as team:
        for _ in range(2 * CALM):
            clock(1.0)
            team.look()
    assert torch.get_num_threads() == 1


def test_the_threads_of_a_gpu_are_left_alone(clock):
    with Threads(torch.device("cuda")) as team:
        clock(0.0)
        team.look()
        assert torch.get_num_threads() == 3


def test_the_clock_of_a_thread_stands_while_it_sleeps():
    start, used = time.perf_counter(), time.thread_time()
    time.sleep(0.05)
    assert time.thread_time() - used < 0.5 * (time.perf_counter() - start)
