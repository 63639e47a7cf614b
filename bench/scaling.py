# SPDX-License-Identifier: Apache-2.0
"""How the time to sample grows with the side of the image, the batch and the hidden size.

    python bench/scaling.py --plot

Each sweep changes one of the three. A power of it is fitted to the measured seconds a batch, and another to the counted
operations (bench/counting.py) at the same points: where the machine is used alike at all of them the two exponents are
equal, and where they differ something else than the operations takes the time. The original's way is timed on its first
row and extrapolated. Ctrl-C ends the measuring; what was measured is shown and written.
"""

from __future__ import annotations

import argparse
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
from bench.sample_speed import PAPER, colorizer_sides
from coltran import cli
from coltran.cli import at_least
from coltran.networks.colorizer import Colorizer

BASE = {"side": 32, "batch": 1, "hidden size": 256}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=at_least(2), nargs="*", default=[16, 32, 64])
    parser.add_argument("--batch", type=at_least(1), nargs="*", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--hidden", type=at_least(8), nargs="*", default=[128, 256, 512])
    parser.add_argument("--implementation", nargs="+", default=[setting.DEFAULT])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=at_least(1), help="threads that compute (default: torch's choice)")
    parser.add_argument(
        "--repeats", type=at_least(1), default=3, help="timed rounds, after one that warms up (default: 3)"
    )
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="where the JSON line and the plot go")
    parser.add_argument("--plot", action="store_true", help="also draw scaling.png (needs matplotlib)")
    return parser.parse_args(argv)


def resized(model: Mapping[str, Any], side: int, hidden: int) -> dict[str, Any]:
    """The colorizer's `model` section for images of another side, with another hidden size."""
    sizes = {"hidden_size": hidden, "ff_size": hidden}
    parts = {part: dict(model[part]) | sizes for part in ("encoder", "decoder")}
    return dict(model) | {"hidden_size": hidden, "resolution": [side, side]} | parts


def exponent(values: Sequence[float], quantities: Sequence[float]) -> float:
    """The least-squares slope of log(quantity) against log(value)."""
    x, y = [math.log(v) for v in values], [math.log(q) for q in quantities]
    return statistics.linear_regression(x, y).slope


def sweep_table(sweeps: Sequence[Mapping[str, Any]]) -> tables.Table:
    """Measured points and exponents."""
    rows = []
    for sweep in sweeps:
        for series in sweep["series"]:
            name = series["implementation"] + (", extrapolated" if series["extrapolated"] else "")
            points = ", ".join(
                f"{value}: {tables.number(seconds)}"
                for value, seconds in zip(sweep["values"], series["seconds"], strict=False)
            )
            rows.append((sweep["title"], name, points, f"{series['measured']:.2f}", f"{series['counted']:.2f}"))
    columns = ("sweep", "implementation", "seconds a batch", "measured exponent", "counted exponent")
    return tables.Table("How the time grows", columns, rows)


def summarise(name: str, values: Sequence[int], points: Sequence[dict[str, tuple[float, int]]]) -> dict[str, Any]:
    """A sweep from its points: seconds and counted operations a batch, by implementation."""
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
) -> dict[str, tuple[float, int]]:
    """Median seconds and counted operations a batch of each side."""
    network = setting.build(model, device, torch.float32)
    assert isinstance(network, Colorizer)
    height = model["resolution"][0]
    found: dict[str, list[float]] = {}
    sides = colorizer_sides(network, batch, implementations, rows=1)
    for name, run in timing.alternate(sides, device, repeats):
        if name == record.RECOMPUTING:
            run = record.extrapolate(run, 1, height)
        found.setdefault(name, []).append(run.seconds)
    work = {name: counting.incremental(model) for name in implementations}
    work[record.RECOMPUTING] = counting.recomputing(model)
    return {name: (statistics.median(seconds), batch * counting.flops(work[name])) for name, seconds in found.items()}


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code: 0, or 130 after Ctrl-C."""
    options = parse(argv)
    console, device = tables.console(), cli.device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.plot:
        plots.pyplot()
    model = setting.load_models(PAPER, ["colorizer"])["colorizer"]
    answers = setting.ask_sampling(resized(model, BASE["side"], BASE["hidden size"]), device, torch.float32)
    implementations = setting.pick(answers, options.implementation)
    described = machine.describe(device)
    wanted = {"side": options.side, "batch": options.batch, "hidden size": options.hidden}
    measured: dict[str, list[dict[str, tuple[float, int]]]] = {name: [] for name in wanted}
    interrupted = False
    try:
        for name, values in wanted.items():
            for value in values:
                size = BASE | {name: value}
                resized_model = resized(model, size["side"], size["hidden size"])
                point = measure_point(resized_model, size["batch"], implementations, device, options.repeats)
                measured[name].append(point)
                shown = ", ".join(f"{side} {seconds:.3g} s" for side, (seconds, _) in point.items())
                console.print(f"{name} {value}: {shown} a batch", highlight=False)
    except KeyboardInterrupt:
        interrupted = True
        console.print("Interrupted; this is what was measured.")
    sweeps = [
        summarise(name, wanted[name][: len(points)], points) for name, points in measured.items() if len(points) > 1
    ]
    result = {
        "benchmark": "scaling",
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "interrupted": interrupted,
        "machine": described,
        "sweeps": sweeps,
    }
    if not sweeps:
        console.print("An exponent needs two points of a sweep; there is nothing to show.")
        return 130 if interrupted else 0
    console.print(tables.to_rich(sweep_table(sweeps)))
    record.append(result, options.results / "scaling.jsonl")
    console.print(f"one line added to {options.results / 'scaling.jsonl'}")
    if options.plot:
        plots.scaling(result, options.results / "scaling.png")
        console.print(f"{options.results / 'scaling.png'} drawn")
    return 130 if interrupted else 0


if __name__ == "__main__":
    cli.run(main)
