# SPDX-License-Identifier: Apache-2.0
"""Processes forked from the test, so that they need not import anything; also such that meet as torchrun's do."""

from __future__ import annotations

import functools
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch._dynamo  # noqa: F401 (as a training's first step does: once here, rather than in every process)

from coltran import cli
from coltran.devices import processes

Work = Callable[[], int | None]


class Ended(NamedTuple):
    """How a process ended."""

    code: int  # negative: the signal that killed it
    said: str  # on stdout and stderr


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def _begin(work: Work, log: Path) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = sys.stderr = open(file, "w", buffering=1)  # noqa: SIM115 (until the process ends)
    sys.exit(work())


def run_forked(works: list[Work], folder: Path, seconds: float = 120) -> list[Ended]:
    """Calls each of them in a process of its own, all at once, and waits; one that hangs is killed.

    Args:
        folder: for what they print; made where missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    logs = [folder / f"process{n}.txt" for n in range(len(works))]
    fork = multiprocessing.get_context("fork")
    started = [fork.Process(target=_begin, args=each) for each in zip(works, logs, strict=True)]
    for process in started:
        process.start()
    for process in started:
        process.join(seconds)
    for process in started:
        process.kill()  # which those that have ended do not notice
        process.join()
    return [Ended(process.exitcode or 0, log.read_text()) for process, log in zip(started, logs, strict=True)]


def _rank(work: Work, rank: int, count: int, port: int) -> None:
    os.environ |= {"WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    def main() -> int | None:
        with processes.init_distributed():
            return work()

    cli.run(main)


def run_ranks(count: int, work: Work, folder: Path) -> list[Ended]:
    """Calls `work` in `count` processes that work together."""
    port = free_port()
    return run_forked([functools.partial(_rank, work, rank, count, port) for rank in range(count)], folder)
