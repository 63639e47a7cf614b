# SPDX-License-Identifier: Apache-2.0
"""How many photographs a minute a folder takes, drawn together and one at a time.

    python bench/album.py ../shared/photos/valid --count 100 --batch 16
    python bench/album.py ../shared/photos/valid --count 16 --stage coarse --rounds 3

Colours the first photographs of a folder as `python -m coltran.colorize` does, one at a time and --batch together,
in turn, after one batch that is not counted. Checks that both wrote the same files. As other programs may have the
processor too, it tells processor time as well. Prints a line for each side and one JSON line.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout, in place of bench/

from bench import machine
from coltran import cli
from coltran.album import colour_album
from coltran.console import speak
from coltran.errors import UserError
from coltran.image import list_photos
from coltran.pipeline import STAGES, Pipeline, from_pretrained

DRAWING = {"seed": 0, "top_p": 0.9, "fit": "stretch", "size": "original"}


def colour(pipeline: Pipeline, photos: Sequence[Path], output: Path, stage: str, batch: int) -> dict[str, float]:
    """Colours photographs into a fresh folder: seconds a photograph, by the clock and of the processor."""
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    clock, processor = time.perf_counter(), time.process_time()
    _, problems = colour_album(pipeline, photos, output, drawing=DRAWING | {"stage": stage}, batch=batch)
    if problems:
        raise UserError(problems[0])
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    return {"clock": clock / len(photos), "processor": processor / len(photos)}


def check_same(one: Path, other: Path) -> None:
    """Raises UserError where two folders differ in any file."""
    first, second = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in (one, other))
    if first != second:
        raise UserError("Drawn together, photographs come out differently.")


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    parser = cli.parser(__doc__)
    parser.add_argument("photos", type=Path, help="folder of photographs")
    parser.add_argument("--count", type=cli.at_least(1), default=100, help="photographs, the first ones (100)")
    parser.add_argument("--batch", type=cli.at_least(2), default=16, help="drawn together (16)")
    parser.add_argument("--stage", choices=STAGES, default="final", help="whose colours (final)")
    parser.add_argument("--rounds", type=cli.at_least(1), default=1, help="of which the median counts (1)")
    parser.add_argument("--checkpoint", help="folder of the networks (default: those in the package)")
    options = parser.parse_args(argv)
    speak(quiet=True)
    pipeline = from_pretrained(options.checkpoint)
    photos = list_photos([options.photos])[: options.count]
    sides = {"one at a time": 1, f"{options.batch} together": options.batch}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as folder:
        for batch in sides.values():
            colour(pipeline, photos[:batch], Path(folder, "warm"), options.stage, batch)
        for _ in range(options.rounds):
            for name, batch in sides.items():
                runs[name].append(colour(pipeline, photos, Path(folder, name), options.stage, batch))
        check_same(*(Path(folder, name) for name in sides))
    found = {name: {kind: statistics.median(run[kind] for run in of) for kind in of[0]} for name, of in runs.items()}
    one, together = found.values()
    ratio = {kind: one[kind] / together[kind] for kind in one}
    for name, seconds in found.items():
        each = f"{seconds['clock']:.3f} s a photograph, {seconds['processor']:.3f} s of the processor"
        print(f"{name:16} {60 / seconds['clock']:7.1f} a minute; {each}")
    print(f"{'ratio':16} {ratio['clock']:7.2f}, of processor time {ratio['processor']:.2f}; the same files")
    result: dict[str, Any] = {"photographs": len(photos), "stage": options.stage, "rounds": options.rounds}
    print(json.dumps({"machine": machine.describe(torch.device("cpu")), **result, "seconds": found, "ratio": ratio}))
    return 0


if __name__ == "__main__":
    cli.run(main)
