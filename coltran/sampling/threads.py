# SPDX-License-Identifier: Apache-2.0
"""How many threads compute what: one image or several at once, alone or while other programs want the processors.

Threads that share a product meet at its end. On busy processors one of them is always waiting for its turn, and the
others for it: two threads beside two other programs are slower than one that meets nobody. Whether that is so shows in
how much of the time the calling thread had a processor.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import TypeVar

import torch

INTERVAL = 0.02  # seconds between looks, at least
OURS = 0.85  # of the time on a processor: below it, others are at work there
CALM = 10  # looks in a row that must find the processors ours before all threads work again
MOST = 4  # images at once, each of which takes memory of its own

Item = TypeVar("Item")
Result = TypeVar("Result")


_lock = threading.Lock()
_at_work = 0  # drawings and upsamplings that are under way in this process
_all = 0  # its threads while any are
_own = threading.local()  # `share`: the threads of a worker of `spread`


def _of_the_process() -> int:
    """What a thread begins with now: the calling one may have begun while another had lowered that."""
    with ThreadPoolExecutor(1) as fresh:
        return fresh.submit(torch.get_num_threads).result()


@contextmanager
def _as_before() -> Iterator[int]:
    """How many threads the calling one may use; in the end it has as many, and so have threads that start later.

    torch keeps one number that threads begin with, and whoever changes their own changes that. So what is lowered by
    one drawing is not what another takes for all there are: that is asked when nobody is at work.
    """
    global _at_work, _all
    with _lock:
        if not _at_work:
            _all = _of_the_process()
        _at_work += 1
    found = int(getattr(_own, "share", _all))
    torch.set_num_threads(found)
    try:
        yield found
    finally:
        torch.set_num_threads(found)
        with _lock:
            _at_work -= 1


def _begin_worker(share: int) -> None:
    _own.share = share
    torch.set_num_threads(share)


def spread(
    work: Callable[[Item], Result], items: Sequence[Item], device: torch.device
) -> Generator[Result, None, None]:
    """The results of some work on each item, in order.

    On a CPU up to `MOST` items are worked on at once, each by its share of the threads: threads that share an image
    wait for each other after every product, threads with an image each do not. Whoever stops early closes the iterator.
    """
    if device.type != "cpu":
        yield from map(work, items)
        return
    with _as_before() as threads:
        at_once = min(MOST, threads, len(items))
        if at_once < 2:
            yield from map(work, items)
            return
        workers = ThreadPoolExecutor(at_once, initializer=_begin_worker, initargs=(threads // at_once,))
        try:
            yield from workers.map(work, items)
        finally:
            workers.shutdown(cancel_futures=True)


class Threads:
    """All of torch's threads while the processors are ours, one while they are not; as before in the end."""

    def __init__(self, device: torch.device) -> None:
        self.before: AbstractContextManager[int] | None = _as_before() if device.type == "cpu" else None
        self.all = 1
        self.calm = CALM

    def _begin(self) -> None:
        self.start, self.used = time.perf_counter(), time.thread_time()

    def __enter__(self) -> Threads:
        if self.before is not None:
            self.all = self.before.__enter__()
        self._begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.before is not None:
            self.before.__exit__(kind, error, at)

    def look(self) -> None:
        """To be called between two pieces of work."""
        passed = time.perf_counter() - self.start
        if self.all == 1 or passed < INTERVAL:
            return
        self.calm = self.calm + 1 if time.thread_time() - self.used > OURS * passed else 0
        torch.set_num_threads(self.all if self.calm >= CALM else 1)
        self._begin()
