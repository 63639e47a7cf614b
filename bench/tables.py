# SPDX-License-Identifier: Apache-2.0
"""Records as tables, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import rich.table
from rich.console import Console

STAGE_TITLES = {
    "encoder": "encoder",
    "outer decoder": "outer decoder",
    "inner decoder": "inner decoder",
    "conditioning": "conditioning",
    "row decoding": "row decoding",
    "color_upsampler": "colour upsampler",
    "spatial_upsampler": "spatial upsampler",
}
ABSENT = "–"


class Table(NamedTuple):
    """A title, the heads of the columns, the rows of cells, and a sentence below."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def number(value: float | None, unit: str = "") -> str:
    """Three significant digits."""
    if value is None:
        return ABSENT
    text = (
        f"{value:.3g}" if 1e-3 <= abs(value) < 1000 or value == 0 else f"{value:,.0f}" if value >= 1 else f"{value:.1e}"
    )
    return f"{text} {unit}".strip()


def percent(share: float | None) -> str:
    """Two digits or more."""
    return ABSENT if share is None else f"{100 * share:.{1 if share < 0.1 else 0}f} %"


def size(count: float | None) -> str:
    """Bytes, in GB or MB."""
    if count is None:
        return ABSENT
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def label(m: Mapping[str, Any]) -> str:
    """The implementation of a measurement, and that it is extrapolated if it is."""
    return m["implementation"] + (", extrapolated" if m["extrapolated_rows"] else "")


def extrapolation(record: Mapping[str, Any]) -> str:
    """From what the extrapolated measurements are; empty where there are none."""
    for m in record["measurements"]:
        if m["extrapolated_rows"]:
            timed, rows = m["extrapolated_rows"]
            return f"Extrapolated: {timed} of {rows} rows timed and scaled, a row's cost being constant."
    return ""


def machine(record: Mapping[str, Any]) -> Table:
    """The machine and its limits."""
    described, limits = record["machine"], record["limits"]
    rows = [
        (name, size(value) if name == "memory" else str(value))
        for name, value in described.items()
        if value is not None
    ]
    product = " x ".join(str(n) for n in limits["product"])
    rows += [(f"{dtype} product, {product}", number(rate / 1e9, "GFLOP/s")) for dtype, rate in limits["flops"].items()]
    rows.append(
        (f"reading {size(limits['cached_bytes'])} from the cache", number(limits["cache_bandwidth"] / 1e9, "GB/s"))
    )
    rows.append(("reading from memory", number(limits["memory_bandwidth"] / 1e9, "GB/s")))
    return Table("The machine", ("what", "value"), rows)


def results(record: Mapping[str, Any]) -> Table:
    """Seconds an image, and what they are compared with."""
    rows = []
    for m in record["measurements"]:
        low, high = m["spread"]
        rows.append(
            (
                m["network"].replace("_", " "),
                str(m["batch"]),
                label(m),
                f"{number(m['seconds_an_image'])} ({number(low)} to {number(high)})",
                number(m["images_a_second"]),
                number(m["ratio"], "x") if m["ratio"] is not None else ABSENT,
                percent(m["share_of_limit"]),
                size(m["peak_bytes"]),
            )
        )
    columns = (
        "network",
        "batch",
        "implementation",
        "s an image (range)",
        "images a s",
        "ratio to the original's way",
        "share of the limit",
        "peak memory",
    )
    return Table("Time an image", columns, rows, extrapolation(record))


def stages(record: Mapping[str, Any]) -> Table:
    """Where the time goes, stage by stage."""
    rows = []
    for m in record["measurements"]:
        total = sum(m["stages"].values())
        for stage, seconds in m["stages"].items():
            rows.append(
                (
                    STAGE_TITLES[stage],
                    str(m["batch"]),
                    label(m),
                    number(seconds / m["batch"]),
                    percent(seconds / total),
                    percent(m["stage_shares"].get(stage)),
                )
            )
    columns = ("stage", "batch", "implementation", "s an image", "share of the time", "share of its limit")
    return Table("Where the time goes", columns, rows, extrapolation(record))


def reading(record: Mapping[str, Any]) -> Table:
    """The sequential part beside the time that reading its weights once a pixel takes."""
    rows = [
        (str(m["batch"]), m["implementation"], number(m["stages"][stage]), number(over, "x"))
        for m in record["measurements"]
        for stage, over in m["over_read_time"].items()
    ]
    columns = (
        "batch",
        "implementation",
        "row decoding, seconds a batch",
        "of the time to read the weights once a pixel",
    )
    return Table("The sequential part", columns, rows)


def to_rich(table: Table) -> rich.table.Table:
    """For a terminal."""
    drawn = rich.table.Table(title=table.title, caption=table.note or None, title_style="bold")
    for i, column in enumerate(table.columns):
        drawn.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for row in table.rows:
        drawn.add_row(*row)
    return drawn


def to_markdown(table: Table) -> str:
    """For a document, without the title."""
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    text = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    return f"{text}\n{table.note}\n" if table.note else text


def console() -> Console:
    """Where a program prints: the terminal, or a file with room for the widest table."""
    return Console() if Console().is_terminal else Console(width=120)


def show(record: Mapping[str, Any], console: Console) -> None:
    """Prints the tables that have rows."""
    for table in (machine(record), results(record), stages(record), reading(record)):
        if table.rows:
            console.print(to_rich(table))
