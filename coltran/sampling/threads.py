# SPDX-License-Identifier: Apache-2.0
"""How many threads compute what: one image or several at once, alone or while other programs want the processors.

Threads that share a product meet at its end. On busy processors one of them is always waiting for its turn, and the
others for it: two threads beside two other programs are slower than one that meets nobody. Whether that is so shows in
how much of the time the calling thread had a processor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import torch

INTERVAL = 0.02  # seconds between looks, at least
OURS = 0.85  # of the time on a processor: below it, others are at work there
CALM = 10  # looks in a row that must find the processors ours before all threads work again
MOST = 4  # images at once, each of which takes memory of its own

Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(
    work: Callable[[Item], Result], items: Sequence[Item], device: torch.device
) -> Generator[Result, None, None]:
    """The results of some work on each item, in order.

    On a CPU up to `MOST` items are worked on at once, each by its share of the threads: threads that share an image
    wait for each other after every product, threads with an image each do not. Whoever stops early closes the iterator.
    """
    threads = torch.get_num_threads()
    at_once = min(MOST, threads, len(items)) if device.type == "cpu" else 1
    if at_once < 2:
        yield from map(work, items)
        return
    workers = ThreadPoolExecutor(at_once, initializer=torch.set_num_threads, initargs=(threads // at_once,))
    try:
        yield from workers.map(work, items)
    finally:
        workers.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # which is also what threads begin with that start later


class Threads:
    """All of torch's threads while the processors are ours, one while they are not; as before in the end."""

    def __init__(self, device: torch.device) -> None:
        self.all = torch.get_num_threads()
        self.watching = device.type == "cpu" and self.all > 1
        self.calm = CALM

    def _begin(self) -> None:
        self.start, self.used = time.perf_counter(), time.thread_time()

    def __enter__(self) -> Threads:
        self._begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.watching:
            torch.set_num_threads(self.all)

    def look(self) -> None:
        """To be called between two pieces of work."""
        passed = time.perf_counter() - self.start
        if not self.watching or passed < INTERVAL:
            return
        self.calm = self.calm + 1 if time.thread_time() - self.used > OURS * passed else 0
        torch.set_num_threads(self.all if self.calm >= CALM else 1)
        self._begin()
