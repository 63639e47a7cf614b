# SPDX-License-Identifier: Apache-2.0
"""Records as charts. Needs matplotlib, which `pip install coltran[plot]` brings."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import tables
from bench.record import RECOMPUTING
from coltran.errors import UserError


def pyplot() -> Any:
    """matplotlib.pyplot, drawing to files.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        importlib.import_module("matplotlib").use("agg")
        return importlib.import_module("matplotlib.pyplot")
    except ModuleNotFoundError as error:
        raise UserError("Plots need matplotlib: pip install 'coltran[plot]'.") from error


def save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot().close(figure)


def _axes(axes: Any, values: list[int], name: str, **options: Any) -> None:
    """Logarithmic, with a tick at each measured value."""
    axes.set(xscale="log", xlabel=name, **options)
    axes.set_xticks(values, [str(value) for value in values])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small")


def sample_speed(record: Mapping[str, Any], path: Path) -> None:
    """Time an image by batch size and implementation, and the share of the limit, as a PNG."""
    measured = sorted((m for m in record["measurements"] if m["network"] == "colorizer"), key=lambda m: m["batch"])
    figure, (times, shares) = pyplot().subplots(1, 2, figsize=(11, 4.2))
    for name in dict.fromkeys(map(tables.label, measured)):
        points = [m for m in measured if tables.label(m) == name]
        batches, seconds = [m["batch"] for m in points], [m["seconds_an_image"] for m in points]
        style = {"marker": "o", "linestyle": "--" if RECOMPUTING in name else "-", "label": name}
        ranges = [[abs(m["spread"][end] - m["seconds_an_image"]) for m in points] for end in (0, 1)]
        times.errorbar(batches, seconds, yerr=ranges, capsize=3, **style)
        shares.plot(batches, [100 * m["share_of_limit"] for m in points], **style)
    batches = sorted({m["batch"] for m in measured})
    _axes(times, batches, "batch", yscale="log", ylabel="seconds an image", title="Time to colour an image coarsely")
    times.yaxis.set_major_locator(pyplot().LogLocator(subs=(1, 2, 5)))
    times.yaxis.set_major_formatter("{x:g}")
    limit = "% of the rate of the large product"
    _axes(shares, batches, "batch", ylabel=limit, title="Share of the machine's limit")
    shares.set_ylim(bottom=0)
    save(figure, path)


def scaling(record: Mapping[str, Any], path: Path) -> None:
    """Measured seconds against side, batch and hidden size, with the curve that counting predicts, as a PNG."""
    sweeps = record["sweeps"]
    figure, axes = pyplot().subplots(1, len(sweeps), figsize=(4.6 * len(sweeps), 4.2), squeeze=False)
    for one, sweep in zip(axes[0], sweeps, strict=True):
        for series in sweep["series"]:
            values, seconds, work = sweep["values"][: len(series["seconds"])], series["seconds"], series["work"]
            name = series["implementation"] + (", extrapolated" if series["extrapolated"] else "")
            (line,) = one.plot(values, seconds, "o", label=f"{name}, exponent {series['measured']:.2f}")
            counted = [seconds[-1] * work_here / work[-1] for work_here in work]
            title = f"counted, exponent {series['counted']:.2f}"
            one.plot(values, counted, "--", color=line.get_color(), label=title)
        _axes(one, sweep["values"], sweep["name"], yscale="log", ylabel="seconds a batch", title=sweep["title"])
    save(figure, path)
