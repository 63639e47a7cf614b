# SPDX-License-Identifier: Apache-2.0
"""Work that shows itself while it goes on, and that ends when nobody watches any more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import numpy as np

from coltran.pipeline import Progress
from coltran.sampling.strips import Preview

APART = 0.15  # seconds between two looks at what is drawn
ending = threading.Event()  # set when the program ends, and with it all work
Result = TypeVar("Result")


class Stopped(Exception):
    """The work was ended before its time."""


def live(
    work: Callable[[Preview, Progress], Result],
    tiles: int,
    show: Callable[[list[np.ndarray]], np.ndarray],
    stopped: threading.Event,
) -> Generator[np.ndarray, None, Result]:
    """Runs `work` in a thread of its own and shows, every so often, how far it is.

    Args:
        work: draws one photograph; called with a preview and a progress for `Pipeline.colour`.
        tiles: how many of its colourings are shown.
        show: what is yielded of the labels so far of the first `tiles` colourings.
        stopped: ends the work when it is set, at the next row or between two networks; closing the generator sets it.

    Returns:
        what `work` returns.

    Raises:
        Stopped: it was ended.
        whatever `work` raises.
    """
    newest: dict[int, np.ndarray] = {}

    def preview(_: int, sample: int, labels: np.ndarray) -> None:
        newest[sample] = labels

    def progress(*_: object) -> None:
        if stopped.is_set() or ending.is_set():
            raise Stopped

    with ThreadPoolExecutor(1, "drawing") as worker:
        working: Future[Result] = worker.submit(work, preview, progress)
        try:
            while not wait([working], APART).done:
                if len(newest) >= tiles:
                    yield show([newest[sample] for sample in range(tiles)])
            return working.result()
        finally:
            if not working.done():  # nobody listens any more
                stopped.set()
