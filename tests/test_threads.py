# SPDX-License-Identifier: Apache-2.0
"""One thread while others want the processors, all when they are calm again, and in the end as before."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from coltran.sampling import threads
from coltran.sampling.threads import CALM, INTERVAL, MOST, Threads, spread

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


@pytest.fixture
def eight():
    """Eight threads, and in the end as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


def test_several_items_are_worked_on_at_once_each_with_its_share_of_the_threads(eight):
    meeting = threading.Barrier(MOST)

    def work(item):
        meeting.wait(timeout=60)  # until all are there
        return item, torch.get_num_threads()

    assert list(spread(work, range(MOST), CPU)) == [(item, 8 // MOST) for item in range(MOST)]
    assert torch.get_num_threads() == 8


@pytest.mark.parametrize(("device", "count"), [("cuda", 3), ("cpu", 1)])
def test_elsewhere_or_alone_an_item_has_all_threads_and_comes_before_the_next_begins(eight, device, count):
    begun = []

    def work(item):
        begun.append(item)
        return torch.get_num_threads(), threading.current_thread()

    for number, found in enumerate(spread(work, range(count), torch.device(device))):
        assert found == (8, threading.current_thread()) and begun == list(range(number + 1))


def test_what_an_item_raises_ends_the_work_and_the_threads_are_as_before(eight):
    def work(item):
        if item == 1:
            raise KeyError(item)
        return item

    found = spread(work, range(100), CPU)
    assert next(found) == 0
    with pytest.raises(KeyError):
        next(found)
    assert torch.get_num_threads() == 8


def test_whoever_stops_early_leaves_the_rest_undone(eight):
    begun, go = [], threading.Event()

    def work(item):
        begun.append(item)
        assert item == 0 or go.wait(timeout=60)

    found = spread(work, range(100), CPU)
    next(found)
    go.set()
    found.close()
    assert len(begun) < 100
    assert torch.get_num_threads() == 8


def test_a_drawing_that_begins_while_others_have_their_share_has_all_threads(eight):
    """And in the end so have the process and threads that start later."""
    seen, inside, leave = {}, threading.Event(), threading.Event()

    def draw() -> None:
        with Threads(CPU) as team:
            seen["drawing"] = (team.all, torch.get_num_threads())
            inside.set()
            leave.wait(timeout=60)

    def number(name: str) -> None:
        seen[name] = torch.get_num_threads()

    upsampling = spread(lambda item: item, range(MOST), CPU)
    next(upsampling)  # its workers have set their shares
    drawing = threading.Thread(target=draw)
    drawing.start()
    assert inside.wait(timeout=60)
    assert list(upsampling) == [1, 2, 3]
    leave.set()
    drawing.join()
    later = threading.Thread(target=number, args=("later",))
    later.start()
    later.join()
    assert seen == {"drawing": (8, 8), "later": 8}
    assert torch.get_num_threads() == 8


def test_a_thread_that_began_while_others_had_their_share_has_all_threads_later(eight):
    seen, begun, go = {}, threading.Event(), threading.Event()

    def draw() -> None:
        seen["began with"] = torch.get_num_threads()
        begun.set()
        go.wait(timeout=60)
        with Threads(CPU) as team:
            seen["draws with"] = team.all

    upsampling = spread(lambda item: item, range(MOST), CPU)
    next(upsampling)
    drawing = threading.Thread(target=draw)
    drawing.start()
    assert begun.wait(timeout=60)
    upsampling.close()
    go.set()
    drawing.join()
    assert seen == {"began with": 8 // MOST, "draws with": 8}
