# SPDX-License-Identifier: Apache-2.0
"""What a run comes to: measurements, which become one JSON line in results/ and tables in the terminal."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.machine import ROOT, Limits
from bench.timing import Timing

RECOMPUTING = "original's way"  # bench.recomputing, in the column of the implementations
OURS = "default"
RESULTS = ROOT / "bench" / "results"
ABSENT = "–"


def measurement(
    network: str,
    implementation: str,
    batch: int,
    timings: list[Timing],
    work: Mapping[str, float],
    limits: Limits,
    dtype: str,
    *,
    read: Mapping[str, float],
    rows: tuple[int, int] | None,
) -> dict[str, Any]:
    """What the runs of one side come to.

    Args:
        network, implementation, batch: one of `setting.STAGES`; `OURS` or `RECOMPUTING`; images a run.
        timings: at least one.
        work: floating-point operations an image, by stage.
        limits: of the machine. A stage's least time is its work at the rate of a large `dtype` product, or its reading.
        read: bytes that have to come from the cache a batch, by stage, where reading may take longer than computing.
        rows: (timed, all) where the runs are extrapolated.
    """
    seconds = [timing.seconds for timing in timings]
    stages = {stage: statistics.median(t.stages[stage] for t in timings) for stage in timings[0].stages}
    least = {
        stage: max(batch * work[stage] / limits.flops[dtype], read.get(stage, 0) / limits.cache_bandwidth)
        for stage in stages
    }
    per_image = statistics.median(seconds) / batch
    return {
        "network": network,
        "implementation": implementation,
        "batch": batch,
        "dtype": dtype,
        "runs": seconds,
        "seconds_an_image": per_image,
        "spread": [min(seconds) / batch, max(seconds) / batch],
        "images_a_second": 1 / per_image,
        "share_of_limit": sum(work.values()) / limits.flops[dtype] / per_image,
        "stages": stages,
        "stage_shares": {stage: least[stage] / taken for stage, taken in stages.items() if taken > 0},
        "extrapolated_rows": rows,
    }


def add_ratios(measurements: list[dict[str, Any]]) -> None:
    """Sets "ratio": how many times faster than the original's way on the same batch; None where that was not run."""
    slow = {m["batch"]: m["seconds_an_image"] for m in measurements if m["implementation"] == RECOMPUTING}
    for m in measurements:
        known = m["network"] == "colorizer" and m["batch"] in slow
        m["ratio"] = slow[m["batch"]] / m["seconds_an_image"] if known else None


def told(option: Any) -> Any:
    """An option's value as a record has it: of a path the part inside the checkout, or else its name alone."""
    if not isinstance(option, Path):
        return option
    whole = option.resolve()
    return str(whole.relative_to(ROOT)) if whole.is_relative_to(ROOT) else option.name


def finish(record: Mapping[str, Any], tables: list[Table], folder: Path) -> None:
    """Prints the tables, and adds the record to those in a folder, as one line."""
    printed, path = console(), folder / f"{record['benchmark']}.jsonl"
    for shown in tables:
        printed.print(shown)
    folder.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    printed.print(f"one line added to {path}")


def number(value: float | None, unit: str = "") -> str:
    """Three significant digits."""
    if value is None:
        return ABSENT
    usual = value == 0 or 1e-3 <= abs(value) < 1000
    return f"{value:{'.3g' if usual else ',.0f' if value >= 1 else '.1e'}} {unit}".strip()


def percent(share: float | None) -> str:
    """Two digits or more."""
    return ABSENT if share is None else f"{100 * share:.{1 if share < 0.1 else 0}f} %"


def size(count: float) -> str:
    """Bytes, in GB or MB."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = "") -> Table:
    """For a terminal: numbers with three digits, None as a dash, a sentence below."""
    drawn = Table(title=title, caption=note or None, title_style="bold")
    for i, column in enumerate(columns):
        drawn.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*(number(cell) if cell is None or isinstance(cell, float) else str(cell) for cell in row))
    return drawn


def console() -> Console:
    """Where a program prints: the terminal, or a file with room for the widest table."""
    return Console(highlight=False) if Console().is_terminal else Console(width=120, highlight=False)


def label(m: Mapping[str, Any]) -> str:
    """The implementation of a measurement, its precision where it is not float32, and whether it is extrapolated."""
    precision = "" if m["dtype"] == "float32" else f", {m['dtype']}"
    return m["implementation"] + precision + (", extrapolated" if m["extrapolated_rows"] else "")


def speed_tables(record: Mapping[str, Any]) -> list[Table]:
    """The machine, the time an image, and where it goes."""
    limits, product = record["limits"], " x ".join(str(n) for n in record["limits"]["product"])
    described = [(name, value) for name, value in record["machine"].items() if value is not None]
    machine = [(name, size(value) if name == "memory" else str(value)) for name, value in described]
    rates = limits["flops"].items()
    machine += [(f"{dtype} product, {product}", number(rate / 1e9, "GFLOP/s")) for dtype, rate in rates]
    cache = f"reading {size(limits['cached_bytes'])} from the cache"
    machine.append((cache, number(limits["cache_bandwidth"] / 1e9, "GB/s")))
    found = record["measurements"]
    results = [
        (
            m["network"].replace("_", " "),
            m["batch"],
            label(m),
            f"{number(m['seconds_an_image'])} ({' to '.join(map(number, m['spread']))})",
            m["images_a_second"],
            number(m["ratio"], "x"),
            percent(m["share_of_limit"]),
        )
        for m in found
    ]
    stages = [
        (
            stage.replace("_", " "),
            m["batch"],
            label(m),
            seconds / m["batch"],
            percent(seconds / sum(m["stages"].values())),
            percent(m["stage_shares"].get(stage)),
        )
        for m in found
        for stage, seconds in m["stages"].items()
    ]
    scaled = next((m["extrapolated_rows"] for m in found if m["extrapolated_rows"]), None)
    note = f"Extrapolated: {scaled[0]} of {scaled[1]} rows timed, a row's cost being constant." if scaled else ""
    of_results = (
        "network, batch, implementation, s an image (range), images a s, ratio to the original's way, of its limit"
    )
    of_stages = "stage, batch, implementation, s an image, share of the time, share of its limit"
    return [
        table("The machine", ("what", "value"), machine),
        table("Time an image", of_results.split(", "), results, note),
        table("Where the time goes", of_stages.split(", "), stages, note),
    ]
