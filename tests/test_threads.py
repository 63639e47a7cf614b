# SPDX-License-Identifier: Apache-2.0
"""One thread while others want the processors, all when they are calm again, and in the end as before."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from coltran.sampling import threads
from coltran.sampling.threads import CALM, INTERVAL, MOST, Threads, spread

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def eight():
    """Eight threads, and in the end as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def look(monkeypatch):
    """`look(team, share)`: an interval passes, of which the thread has had that share of a processor; its threads."""
    now = {"wall": 0.0, "used": 0.0}
    monkeypatch.setattr(threads.time, "perf_counter", lambda: now["wall"])
    monkeypatch.setattr(threads.time, "thread_time", lambda: now["used"])

    def passes(team, share, seconds=2 * INTERVAL):
        now["wall"] += seconds
        now["used"] += share * seconds
        team.look()
        return torch.get_num_threads()

    return passes


def test_one_thread_works_while_the_processors_are_busy_and_all_when_they_stay_calm(look):
    with Threads(CPU) as team:
        shares = [1.0, 0.5, *[1.0] * CALM]
        assert [look(team, share) for share in shares] == [8, *[1] * CALM, 8]


def test_the_threads_are_as_before_in_the_end(look):
    with pytest.raises(KeyboardInterrupt), Threads(CPU) as team:
        assert look(team, 0.1) == 1
        raise KeyboardInterrupt
    assert torch.get_num_threads() == 8


@pytest.mark.parametrize(
    ("device", "count", "share", "seconds"),
    [("cpu", 1, 1.0, 2 * INTERVAL), ("cpu", 8, 0.0, INTERVAL / 2), ("cuda", 8, 0.0, 2 * INTERVAL)],
    ids=["one thread stays one", "a short interval says nothing", "those of a GPU are left alone"],
)
def test_elsewhere_the_number_stays(look, device, count, share, seconds):
    torch.set_num_threads(count)
    with Threads(torch.device(device)) as team:
        assert [look(team, share, seconds) for _ in range(1 if share == 0 else 2 * CALM)][-1] == count
    assert torch.get_num_threads() == count


def test_the_clock_of_a_thread_stands_while_it_sleeps():
    start, used = time.perf_counter(), time.thread_time()
    time.sleep(0.05)
    assert time.thread_time() - used < 0.5 * (time.perf_counter() - start)


def test_several_items_are_worked_on_at_once_each_with_its_share_of_the_threads():
    meeting = threading.Barrier(MOST)

    def work(item):
        meeting.wait(timeout=60)  # until all are there
        return item, torch.get_num_threads()

    assert list(spread(work, range(MOST), CPU)) == [(item, 8 // MOST) for item in range(MOST)]
    assert torch.get_num_threads() == 8


@pytest.mark.parametrize(("device", "count"), [("cuda", 3), ("cpu", 1)])
def test_elsewhere_or_alone_an_item_has_all_threads_and_comes_before_the_next_begins(device, count):
    begun = []

    def work(item):
        begun.append(item)
        return torch.get_num_threads(), threading.current_thread()

    for number, found in enumerate(spread(work, range(count), torch.device(device))):
        assert found == (8, threading.current_thread()) and begun == list(range(number + 1))


def test_what_an_item_raises_ends_the_work_and_the_threads_are_as_before():
    def work(item):
        if item == 1:
            raise KeyError(item)
        return item

    found = spread(work, range(100), CPU)
    assert next(found) == 0
    with pytest.raises(KeyError):
        next(found)
    assert torch.get_num_threads() == 8


def test_whoever_stops_early_leaves_the_rest_undone():
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


def test_a_drawing_that_begins_while_others_have_their_share_has_all_threads():
    """And in the end so have the process and threads that start later."""
    inside, leave = threading.Event(), threading.Event()

    def draw() -> tuple[int, int]:
        with Threads(CPU) as team:
            found = team.all, torch.get_num_threads()
            inside.set()
            leave.wait(timeout=60)
        return found

    upsampling = spread(lambda item: item, range(MOST), CPU)
    next(upsampling)  # its workers have set their shares
    with ThreadPoolExecutor(1) as drawer:
        drawing = drawer.submit(draw)
        assert inside.wait(timeout=60)
        assert list(upsampling) == [1, 2, 3]
        leave.set()
        assert drawing.result() == (8, 8)
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == torch.get_num_threads() == 8


def test_a_thread_that_began_while_others_had_their_share_has_all_threads_later():
    def draw() -> int:
        with Threads(CPU) as team:
            return team.all

    upsampling = spread(lambda item: item, range(MOST), CPU)
    next(upsampling)
    with ThreadPoolExecutor(1) as drawer:
        assert drawer.submit(torch.get_num_threads).result() == 8 // MOST
        upsampling.close()
        assert drawer.submit(draw).result() == 8
