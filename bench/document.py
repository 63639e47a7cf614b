# SPDX-License-Identifier: Apache-2.0
"""Fills the tables and plots of docs/performance.md from the newest records that were not interrupted.

    python bench/sample_speed.py --batch 1 4 8 20 && python bench/scaling.py && python bench/document.py

What stands between `<!-- begin NAME -->` and `<!-- end NAME -->` is replaced; the text around it is left alone. A part
without a record stays as it is.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout, in place of bench/

from bench import estimates, plots, record, scaling, tables
from coltran import cli
from coltran.errors import UserError

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "performance.md"


def fill(text: str, name: str, content: str) -> str:
    """Replaces what stands between the marks of `name`.

    Raises:
        UserError: the marks are not there.
    """
    pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    text, count = pattern.subn(lambda marks: f"{marks[1]}{content.strip()}\n{marks[2]}", text)
    if count != 1:
        raise UserError(
            f"The document needs the marks 'begin {name}' and 'end {name}' once, they are there {count} times."
        )
    return text


def headline(result: Mapping[str, Any]) -> str:
    """The ratios to the original's way, by batch size, in one sentence."""
    ratios = [
        f"{tables.number(m['ratio'])} times at batch {m['batch']} ({tables.number(m['seconds_an_image'])} s an image)"
        for m in result["measurements"]
        if m["network"] == "colorizer" and m["implementation"] == "default" and m["ratio"] is not None
    ]
    described = result["machine"]
    where = (
        f"{described['gpu'] or described['processor']}, {described['threads']} threads, commit {described['commit']}"
    )
    if not ratios:
        return f"No comparison was measured ({where})."
    return (
        f"Sampling is faster than the original's way: {', '.join(ratios)}. Measured {result['time'][:10]} on {where}."
    )


def sections(speed: Mapping[str, Any] | None, growth: Mapping[str, Any] | None, folder: Path) -> dict[str, str]:
    """The contents by the names of their marks; draws the plots into `folder`."""
    found = {"estimates": tables.to_markdown(estimates.table([1, 20]))}
    if speed is not None:
        plots.sample_speed(speed, folder / "sample_speed.png")
        found |= {
            "headline": headline(speed),
            "machine": tables.to_markdown(tables.machine(speed)),
            "results": f"{tables.to_markdown(tables.results(speed))}\n![time an image](images/sample_speed.png)",
            "stages": tables.to_markdown(tables.stages(speed)),
            "reading": tables.to_markdown(tables.reading(speed)),
        }
    if growth is not None:
        plots.scaling(growth, folder / "scaling.png")
        table = tables.to_markdown(scaling.sweep_table(growth["sweeps"]))
        found["scaling"] = f"{table}\n![how the time grows](images/scaling.png)"
    return found


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="where the records are")
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    options = parser.parse_args(argv)
    speed = record.completed(options.results / "sample_speed.jsonl")
    growth = record.newest(options.results / "scaling.jsonl")
    text = options.document.read_text(encoding="utf-8")
    filled = sections(speed, growth, options.document.parent / "images")
    for name, content in filled.items():
        text = fill(text, name, content)
    options.document.write_text(text, encoding="utf-8")
    print(f"{options.document}: filled {', '.join(filled)}")
    return 0


if __name__ == "__main__":
    cli.run(main)
