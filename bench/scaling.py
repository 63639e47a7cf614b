# SPDX-License-Identifier: Apache-2.0
"""How the time to sample grows with the side of the image, the batch and the hidden size.

    python bench/scaling.py --plot

Each sweep changes one of the three. A power of it is fitted to the measured seconds a batch, and another to the counted
operations (bench/counting.py) at the same points: where the machine is used alike at all of them the two exponents are
equal, and where they differ something else than the operations takes the time. The original's way is timed on its first
row and extrapolated. Ctrl-C ends the measuring; what was measured is shown and written.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout, in place of bench/

from bench import counting, machine, plots, record, setting, tables, timing
from coltran import cli

BASE = {"side": 32, "batch": 1, "hidden size": 256}
Point = dict[str, tuple[float, int]]  # seconds and counted operations a batch, by implementation


def resized(model: Mapping[str, Any], side: int, hidden: int) -> dict[str, Any]:
    """The colorizer's `model` section for images of another side, with another hidden size."""
    sizes = {"hidden_size": hidden, "ff_size": hidden}
    parts = {part: dict(model[part]) | sizes for part in ("encoder", "decoder")}
    return dict(model) | {"hidden_size": hidden, "resolution": [side, side]} | parts


def exponent(values: Sequence[float], quantities: Sequence[float]) -> float:
    """The least-squares slope of log(quantity) against log(value)."""
    x, y = [math.log(v) for v in values], [math.log(q) for q in quantities]
    return statistics.linear_regression(x, y).slope


def summarise(name: str, values: Sequence[int], points: Sequence[Point]) -> dict[str, Any]:
    """A sweep from its points."""
    fixed = ", ".join(f"{other} {size}" for other, size in BASE.items() if other != name)
    series = []
    for implementation in points[0]:
        seconds, work = zip(*(point[implementation] for point in points), strict=True)
        series.append(
            {
                "implementation": implementation,
                "extrapolated": implementation == record.RECOMPUTING,
                "seconds": seconds,
                "work": work,
                "measured": exponent(values, seconds),
                "counted": exponent(values, work),
            }
        )
    return {"name": name, "title": f"{name} ({fixed})", "values": list(values), "series": series}


def measure_point(
    model: Mapping[str, Any], batch: int, implementations: list[str], device: torch.device, repeats: int
) -> Point:
    """Median seconds and counted operations a batch of each side."""
    images = setting.random_images(batch, model, device)
    sides = setting.sides(setting.build(model, device), "colorizer", images, implementations, rows=1)
    found: dict[str, list[float]] = {}
    for name, run in timing.alternate(sides, device, repeats):
        if name == record.RECOMPUTING:
            run = timing.extrapolate(run, 1, model["resolution"][0])
        found.setdefault(name, []).append(run.seconds)
    ours, slow = counting.flops(counting.incremental(model)), counting.flops(counting.recomputing(model))
    work = {name: batch * (slow if name == record.RECOMPUTING else ours) for name in found}
    return {name: (statistics.median(seconds), work[name]) for name, seconds in found.items()}


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code: 0, or 130 after Ctrl-C."""
    parser = setting.parser(__doc__)
    parser.add_argument("--side", type=cli.at_least(2), nargs="*", default=[16, 32, 64])
    parser.add_argument("--batch", type=cli.at_least(1), nargs="*", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--hidden", type=cli.at_least(8), nargs="*", default=[128, 256, 512])
    options = parser.parse_args(argv)
    console, device = tables.console(), setting.prepare(options)
    model = setting.load_models(setting.PAPER, ["colorizer"])["colorizer"]
    answers = setting.ask_network(resized(model, BASE["side"], BASE["hidden size"]), device, torch.float32)
    implementations = setting.pick(answers, options.implementation)
    described = machine.describe(device)
    wanted = {"side": options.side, "batch": options.batch, "hidden size": options.hidden}
    measured: dict[str, list[Point]] = {name: [] for name in wanted}
    interrupted = False
    try:
        for name, value in ((name, value) for name, values in wanted.items() for value in values):
            here = BASE | {name: value}
            sized = resized(model, here["side"], here["hidden size"])
            point = measure_point(sized, here["batch"], implementations, device, options.repeats)
            measured[name].append(point)
            shown = ", ".join(f"{side} {seconds:.3g} s" for side, (seconds, _) in point.items())
            console.print(f"{name} {value}: {shown} a batch")
    except KeyboardInterrupt:
        interrupted = True
        console.print("Interrupted; this is what was measured.")
    kept = {name: points for name, points in measured.items() if len(points) > 1}
    result = {
        "benchmark": "scaling",
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "interrupted": interrupted,
        "machine": described,
        "sweeps": [summarise(name, wanted[name][: len(points)], points) for name, points in kept.items()],
    }
    if not kept:
        console.print("An exponent needs two points of a sweep; there is nothing to show.")
        return 130 if interrupted else 0
    return setting.finish(result, [tables.growth(result)], options, console, plots.scaling)


if __name__ == "__main__":
    cli.run(main)
