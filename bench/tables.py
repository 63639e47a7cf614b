# SPDX-License-Identifier: Apache-2.0
"""Records as tables, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import rich.table
from rich.console import Console

ABSENT = "–"
Record = Mapping[str, Any]


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
    usual = value == 0 or 1e-3 <= abs(value) < 1000
    return f"{value:{'.3g' if usual else ',.0f' if value >= 1 else '.1e'}} {unit}".strip()


def percent(share: float | None) -> str:
    """Two digits or more."""
    return ABSENT if share is None else f"{100 * share:.{1 if share < 0.1 else 0}f} %"


def size(count: float | None) -> str:
    """Bytes, in GB or MB."""
    if count is None:
        return ABSENT
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def label(m: Record) -> str:
    """The implementation of a measurement, its precision where it is not float32, and whether it is extrapolated."""
    precision = "" if m["dtype"] == "float32" else f", {m['dtype']}"
    return m["implementation"] + precision + (", extrapolated" if m["extrapolated_rows"] else "")


def extrapolation(record: Record) -> str:
    """From what the extrapolated measurements are; empty where there are none."""
    found = next((m["extrapolated_rows"] for m in record["measurements"] if m["extrapolated_rows"]), None)
    return (
        f"Extrapolated: {found[0]} of {found[1]} rows timed and scaled, a row's cost being constant." if found else ""
    )


def machine(record: Record) -> Table:
    """The machine and its limits."""
    limits, product = record["limits"], " x ".join(str(n) for n in record["limits"]["product"])
    described = {name: value for name, value in record["machine"].items() if value is not None}
    rows = [(name, size(value) if name == "memory" else str(value)) for name, value in described.items()]
    rows += [(f"{dtype} product, {product}", number(rate / 1e9, "GFLOP/s")) for dtype, rate in limits["flops"].items()]
    cache = f"reading {size(limits['cached_bytes'])} from the cache"
    rows.append((cache, number(limits["cache_bandwidth"] / 1e9, "GB/s")))
    rows.append(("reading from memory", number(limits["memory_bandwidth"] / 1e9, "GB/s")))
    return Table("The machine", ("what", "value"), rows)


def results(record: Record) -> Table:
    """Seconds an image, and what they are compared with."""
    columns = "network, batch, implementation, s an image (range), images a s, ratio to the original's way"
    rows = [
        (
            m["network"].replace("_", " "),
            str(m["batch"]),
            label(m),
            f"{number(m['seconds_an_image'])} ({' to '.join(map(number, m['spread']))})",
            number(m["images_a_second"]),
            number(m["ratio"], "x"),
            percent(m["share_of_limit"]),
            size(m["peak_bytes"]),
        )
        for m in record["measurements"]
    ]
    heads = (*columns.split(", "), "share of the limit", "peak memory")
    return Table("Time an image", heads, rows, extrapolation(record))


def stages(record: Record) -> Table:
    """Where the time goes, stage by stage."""
    columns = "stage, batch, implementation, s an image, share of the time, share of its limit"
    rows = [
        (
            stage.replace("color_", "colour ").replace("_", " "),
            str(m["batch"]),
            label(m),
            number(seconds / m["batch"]),
            percent(seconds / sum(m["stages"].values())),
            percent(m["stage_shares"].get(stage)),
        )
        for m in record["measurements"]
        for stage, seconds in m["stages"].items()
    ]
    return Table("Where the time goes", columns.split(", "), rows, extrapolation(record))


def reading(record: Record) -> Table:
    """The sequential part beside the time that reading its weights once a pixel takes."""
    rows = [
        (str(m["batch"]), label(m), number(m["stages"][stage]), number(over, "x"))
        for m in record["measurements"]
        for stage, over in m["over_read_time"].items()
    ]
    heads = ("row decoding, seconds a batch", "of the time to read the weights once a pixel")
    return Table("The sequential part", ("batch", "implementation", *heads), rows)


def fixed_point(record: Record) -> Table:
    """What the rows by fixed point took, beside the default on the same batch."""
    ours = [m for m in record["measurements"] if "row decoding" in m["stages"]]
    default = {m["batch"]: m["stages"]["row decoding"] for m in ours if m["implementation"] == "default"}
    rows = [
        (
            str(m["batch"]),
            number(m["passes"]),
            number(m["computed"]),
            number(default[m["batch"]] / m["stages"]["row decoding"], "x") if m["batch"] in default else ABSENT,
            percent(m["stage_shares"].get("row decoding")),
        )
        for m in ours
        if "passes" in m
    ]
    columns = (
        "batch, passes a row, pixels computed for each one kept, row decoding to the default's, share of its limit"
    )
    return Table("Rows by fixed point", columns.split(", "), rows)


def growth(record: Record) -> Table:
    """The points of `scaling`, and the exponents of the power laws through them."""
    columns = "sweep, implementation, seconds a batch, measured exponent, counted exponent"
    rows = [
        (
            sweep["title"],
            series["implementation"] + (", extrapolated" if series["extrapolated"] else ""),
            ", ".join(f"{v}: {number(s)}" for v, s in zip(sweep["values"], series["seconds"], strict=False)),
            f"{series['measured']:.2f}",
            f"{series['counted']:.2f}",
        )
        for sweep in record["sweeps"]
        for series in sweep["series"]
    ]
    return Table("How the time grows", columns.split(", "), rows)


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
    return Console(highlight=False) if Console().is_terminal else Console(width=120, highlight=False)
