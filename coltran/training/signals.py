# SPDX-License-Identifier: Apache-2.0
"""SIGINT and SIGTERM in a training: finish the step, save, leave."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Gives a list that gets the number of a SIGINT or SIGTERM; one that comes a second later acts as usual.

    Within the second it counts as the same one: `timeout` and a terminal's group of processes deliver it twice. One
    that is ignored when the program starts stays ignored: so a shell keeps Ctrl-C, which is meant for the program in
    front, from the jobs behind it. Those are stopped by SIGTERM.
    """
    caught: list[int] = []
    first = 0.0
    previous: dict[int, Any] = {}

    def note(number: int, _: Any) -> None:
        nonlocal first
        first = first or time.monotonic()
        caught.append(number)
        if time.monotonic() > first + 1:
            as_before()
            signal.raise_signal(number)

    def as_before() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            previous[number] = signal.signal(number, note)
    try:
        yield caught
    finally:
        as_before()
