# SPDX-License-Identifier: Apache-2.0
"""How near the first colouring of a faded print comes to its true colours: docs/photographs.md.

    python bench/faded.py ../shared/photos/wide-valid --limit 100 --seeds 0 1 2 --stage coarse

Photographs are squeezed, all three channels alike, to levels such as 60 to 195, and coloured with --levels keep and
auto. Printed are the mean distance to the squeezed photograph in CIELAB's a and b, beside that of gray, and the mean
chroma as a share of its own: for each the mean over the seeds, the least and the most. The last line is the result as
JSON.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import coltran
from coltran import cli
from coltran.image import list_photos, load_photo
from coltran.metrics.arithmetic import ab_error, chroma
from coltran.photo.recolor import luminance

RANGES = ((0, 255), (40, 215), (60, 195), (90, 170))
WAYS = ("keep", "auto")


def squeeze(photo: np.ndarray, low: int, high: int) -> np.ndarray:
    """A photograph uint8 [H, W, 3] brought from 0 .. 255 to low .. high."""
    return np.rint(low + photo * ((high - low) / 255)).astype(np.uint8)


def main() -> None:
    """The program."""
    parser = cli.parser(__doc__)
    parser.add_argument("photos", type=Path, help="folder of photographs in colour")
    parser.add_argument("--limit", type=cli.at_least(1), default=100, help="photographs, evenly picked (100)")
    parser.add_argument("--seeds", type=cli.seed, nargs="+", default=[0, 1, 2])
    parser.add_argument("--stage", default="color", help="whose colours: coarse, color or final (color)")
    parser.add_argument("--checkpoint", type=Path, help="folder with the networks (the package's)")
    cli.add_machine_arguments(parser)
    options = parser.parse_args()
    pipeline = coltran.from_pretrained(options.checkpoint).to(cli.use_machine(options))
    paths = list_photos([options.photos])
    paths = paths[:: max(1, len(paths) // options.limit)][: options.limit]
    photos = [load_photo(path) for path in paths]
    found = []
    for low, high in RANGES:
        squeezed = [squeeze(photo, low, high) for photo in photos]
        gray = [np.repeat(np.rint(luminance(photo))[..., None], 3, -1).astype(np.uint8) for photo in squeezed]
        true = mean_chroma(squeezed)
        row: dict[str, Any] = {"levels": [low, high], "gray": mean_distance(gray, squeezed), "chroma": true}
        for way in WAYS:
            draw = partial(pipeline.colorize, squeezed, top_p=0.9, stage=options.stage, levels=way, border="keep")
            drawn = [[one.images[0] for one in draw(seed=seed)] for seed in options.seeds]
            row[way] = [mean_distance(one, squeezed) for one in drawn]
            row[f"{way}_chroma"] = [mean_chroma(one) / true for one in drawn]
        found.append(row)
        cells = [f"{_spread(row[way])}, chroma {_spread(row[f'{way}_chroma'])}" for way in WAYS]
        print(f"{low:3} to {high:3}: gray {row['gray']:.2f}", *map(" ".join, zip(WAYS, cells, strict=True)), sep=" | ")
    print(json.dumps({"photographs": len(photos), "seeds": options.seeds, "stage": options.stage, "ab": found}))


def mean_distance(found: list[np.ndarray], true: list[np.ndarray]) -> float:
    """In CIELAB's a and b, of photographs uint8 [H, W, 3]: each weighs the same."""
    return float(np.mean([ab_error(a, b) for a, b in zip(found, true, strict=True)]))


def mean_chroma(photos: list[np.ndarray]) -> float:
    """The length in CIELAB's a and b, of photographs uint8 [H, W, 3]: each weighs the same."""
    return float(np.mean([np.linalg.norm(chroma(photo), axis=-1).mean() for photo in photos]))


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
