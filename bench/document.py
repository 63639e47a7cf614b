# SPDX-License-Identifier: Apache-2.0
"""Fills the tables and plots of docs/performance.md from the newest records that were not interrupted.

    python bench/sample_speed.py --batch 1 4 8 20 && python bench/scaling.py && python bench/document.py

What stands between `<!-- begin NAME -->` and `<!-- end NAME -->` is replaced; the text around it is left alone. A part
without a record stays as it is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout, in place of bench/

from bench import gpu, plots, record, tables
from coltran import cli
from coltran.errors import UserError
from coltran.files import written_whole

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
        f"{tables.number(m['ratio'])} times at batch {m['batch']} ({tables.number(m['seconds_an_image'])} s an image"
        f"{'' if m['dtype'] == 'float32' else ', ' + m['dtype']})"
        for m in result["measurements"]
        if m["network"] == "colorizer" and m["implementation"] == "default" and m["ratio"] is not None
    ]
    machine = result["machine"]
    where = f"{machine['gpu'] or machine['processor']}, {machine['threads']} threads, commit {machine['commit']}"
    if not ratios:
        return f"No comparison was measured ({where})."
    return (
        f"Sampling is faster than the original's way: {', '.join(ratios)}. Measured {result['time'][:10]} on {where}."
    )


def sections(results: Path, images: Path) -> dict[str, str]:
    """The contents by the names of their marks, from a folder of records; draws the plots into `images`."""
    found = {"estimates": tables.to_markdown(gpu.sampling_table([1, 20]))}
    if speed := record.completed(results / "sample_speed.jsonl"):
        parts = {name: getattr(tables, name)(speed) for name in ("machine", "results", "stages", "reading")}
        found |= {name: tables.to_markdown(table) for name, table in parts.items()} | {"headline": headline(speed)}
        found["results"] += "\n![time an image](images/sample_speed.png)"
        plots.sample_speed(speed, images / "sample_speed.png")
    if growth := record.read(results / "scaling.jsonl"):
        found["scaling"] = f"{tables.to_markdown(tables.growth(growth[-1]))}\n![how the time grows](images/scaling.png)"
        plots.scaling(growth[-1], images / "scaling.png")
    return found


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    parser = cli.parser(__doc__)
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="where the records are")
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    options = parser.parse_args(argv)
    text = options.document.read_text(encoding="utf-8")
    filled = sections(options.results, options.document.parent / "images")
    for name, content in filled.items():
        text = fill(text, name, content)
    with written_whole(options.document) as path:
        path.write_text(text, encoding="utf-8")
    print(f"{options.document}: filled {', '.join(filled)}")
    return 0


if __name__ == "__main__":
    cli.run(main)
