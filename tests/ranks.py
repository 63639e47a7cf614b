# SPDX-License-Identifier: Apache-2.0
"""Processes that meet as those of torchrun do, forked from the test so that they need not import anything."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from coltran import cli
from coltran.devices import processes


class Ended(NamedTuple):
    """How a process ended."""

    code: int  # negative: the signal that killed it
    said: str  # on stdout and stderr


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def _start(work: Callable[[], int | None], rank: int, count: int, port: int, log: Path) -> None:
    os.environ |= {"WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = sys.stderr = open(file, "w", buffering=1)  # noqa: SIM115 (until the process ends)

    def main() -> int | None:
        with processes.joined():
            return work()

    cli.run(main)


def run_ranks(count: int, work: Callable[[], int | None], folder: Path, seconds: float = 120) -> list[Ended]:
    """Calls `work` in `count` processes that work together, and waits for them.

    Args:
        folder: for what they print; made where missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    logs = [folder / f"rank{rank}.txt" for rank in range(count)]
    context, port = multiprocessing.get_context("fork"), free_port()
    started = [context.Process(target=_start, args=(work, rank, count, port, log)) for rank, log in enumerate(logs)]
    for process in started:
        process.start()
    for process in started:
        process.join(seconds)
    hanging = [process for process in started if process.is_alive()]
    for process in hanging:
        process.kill()
    assert not hanging, [log.read_text() for log in logs]
    return [Ended(process.exitcode or 0, log.read_text()) for process, log in zip(started, logs, strict=True)]
