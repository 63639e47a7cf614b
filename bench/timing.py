# SPDX-License-Identifier: Apache-2.0
"""Timing runs in turn, with the time of each of their stages."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch


def synchronize(device: torch.device) -> None:
    """Waits until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class StageClock:
    """Adds up the time between marks, by the name of the stage that each mark ends.

    On a GPU a mark is an event in its queue, so that marking makes nobody wait.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.marks: list[tuple[str, Any]] = []
        self("")

    def __call__(self, stage: str) -> None:
        """Ends the stage of this name; the next begins."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append((stage, event))
        else:
            self.marks.append((stage, time.perf_counter()))

    def seconds(self) -> dict[str, float]:
        """Seconds of each stage."""
        synchronize(self.device)
        total: dict[str, float] = {}
        for (_, before), (stage, after) in zip(self.marks, self.marks[1:], strict=False):
            elapsed = before.elapsed_time(after) / 1000 if self.device.type == "cuda" else after - before
            total[stage] = total.get(stage, 0.0) + elapsed
        return total


class Timing(NamedTuple):
    """One run."""

    seconds: float
    stages: dict[str, float]  # seconds, by stage


Run = Callable[[StageClock], object]  # marks its stages on the clock


def time_run(run: Run, device: torch.device) -> Timing:
    """Runs once and measures."""
    gc.collect()
    synchronize(device)
    start = time.perf_counter()
    clock = StageClock(device)
    run(clock)
    synchronize(device)
    seconds = time.perf_counter() - start
    return Timing(seconds, clock.seconds())


def alternate(sides: Mapping[str, Run], device: torch.device, repeats: int) -> Iterator[tuple[str, Timing]]:
    """Runs the sides in turn (A B A B ...); gives each run as it ends. A first round warms up and is not given."""
    gc.collect()
    gc.freeze()  # what lives already is no garbage of a run: the collection before each need not look at it
    try:
        for round_ in range(repeats + 1):
            for name, run in sides.items():
                timing = time_run(run, device)
                if round_ > 0:
                    yield name, timing
    finally:
        gc.unfreeze()


def extrapolate(timing: Timing, rows: int, height: int) -> Timing:
    """A run of the original's algorithm over its first rows, as a run over all.

    A row costs the same wherever it is. The outer decoder is not run after the last.
    """
    if rows == height:
        return timing
    factors = {"encoder": 1.0, "inner decoder": height / rows, "outer decoder": (height - 1) / rows}
    stages = {stage: seconds * factors[stage] for stage, seconds in timing.stages.items()}
    return Timing(sum(stages.values()), stages)
