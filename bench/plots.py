# SPDX-License-Identifier: Apache-2.0
"""Records as charts. Needs matplotlib, which `pip install coltran[plot]` brings."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot().close(figure)


def sample_speed(record: Mapping[str, Any], path: Path) -> None:
    """Time an image by batch size and implementation, and the share of the limit, as a PNG."""
    measured = [m for m in record["measurements"] if m["network"] == "colorizer"]
    figure, (times, shares) = pyplot().subplots(1, 2, figsize=(11, 4.2))
    for name in dict.fromkeys(m["implementation"] for m in measured):
        points = sorted((m for m in measured if m["implementation"] == name), key=lambda m: m["batch"])
        batches = [m["batch"] for m in points]
        style = {"marker": "o", "linestyle": "--" if name == RECOMPUTING else "-"}
        extrapolated = any(m["extrapolated_rows"] for m in points)
        title = f"{name} (extrapolated)" if extrapolated else name
        seconds = [m["seconds_an_image"] for m in points]
        low = [m["seconds_an_image"] - m["spread"][0] for m in points]
        high = [m["spread"][1] - m["seconds_an_image"] for m in points]
        times.errorbar(batches, seconds, yerr=(low, high), label=title, capsize=3, **style)
        shares.plot(batches, [100 * m["share_of_limit"] for m in points], label=title, **style)
    everywhere = sorted({m["batch"] for m in measured})
    for axes in (times, shares):
        axes.set_xscale("log")
        axes.set_xticks(everywhere, [str(batch) for batch in everywhere])
        axes.minorticks_off()
        axes.set_xlabel("batch")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    times.set_yscale("log")
    times.yaxis.set_major_formatter("{x:g}")
    times.yaxis.set_minor_formatter("{x:g}")
    times.set_ylabel("seconds an image")
    times.set_title("Time to colour an image coarsely")
    shares.set_ylim(bottom=0)
    shares.set_ylabel("% of the rate of the large product")
    shares.set_title("Share of the machine's limit")
    _save(figure, path)


def scaling(record: Mapping[str, Any], path: Path) -> None:
    """Measured seconds against side, batch and hidden size, with the curve that counting predicts, as a PNG."""
    figure, all_axes = pyplot().subplots(
        1, len(record["sweeps"]), figsize=(4.6 * len(record["sweeps"]), 4.2), squeeze=False
    )
    for axes, sweep in zip(all_axes[0], record["sweeps"], strict=True):
        for series in sweep["series"]:
            values, seconds = sweep["values"][: len(series["seconds"])], series["seconds"]
            name = series["implementation"] + (" (extrapolated)" if series["extrapolated"] else "")
            (line,) = axes.plot(values, seconds, "o", label=f"{name}, exponent {series['measured']:.2f}")
            scale = seconds[-1] / series["work"][-1]
            counted = [scale * work for work in series["work"]]
            title = f"counted, exponent {series['counted']:.2f}"
            axes.plot(values, counted, "--", color=line.get_color(), label=title)
        axes.set(xscale="log", yscale="log", xlabel=sweep["name"], ylabel="seconds a batch", title=sweep["title"])
        axes.set_xticks(sweep["values"], [str(value) for value in sweep["values"]])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize="x-small")
    _save(figure, path)
