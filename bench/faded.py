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
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import coltran
from coltran import cli
from coltran.image import list_photos, load_photo
from coltran.photo.lab import to_ab
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
        true = [to_ab(photo) for photo in squeezed]
        gray = [to_ab(np.repeat(np.rint(luminance(photo))[..., None], 3, -1).astype(np.uint8)) for photo in squeezed]
        row: dict[str, Any] = {"levels": [low, high], "gray": mean_distance(gray, true), "chroma": mean_chroma(true)}
        for way in WAYS:
            drawn = [_draw(pipeline, squeezed, seed, options.stage, way) for seed in options.seeds]
            row[way] = [mean_distance(one, true) for one in drawn]
            row[f"{way}_chroma"] = [mean_chroma(one) / row["chroma"] for one in drawn]
        found.append(row)
        cells = [f"{_spread(row[way])}, chroma {_spread(row[f'{way}_chroma'])}" for way in WAYS]
        print(f"{low:3} to {high:3}: gray {row['gray']:.2f}", *map(" ".join, zip(WAYS, cells, strict=True)), sep=" | ")
    print(json.dumps({"photographs": len(photos), "seeds": options.seeds, "stage": options.stage, "ab": found}))


def mean_distance(found: list[np.ndarray], true: list[np.ndarray]) -> float:
    """Of colours in CIELAB's a and b, [H, W, 2] each: each photograph weighs the same."""
    return float(np.mean([np.linalg.norm(a - b, axis=-1).mean() for a, b in zip(found, true, strict=True)]))


def mean_chroma(colours: list[np.ndarray]) -> float:
    """Of colours in CIELAB's a and b, [H, W, 2] each: each photograph weighs the same."""
    return float(np.mean([np.linalg.norm(one, axis=-1).mean() for one in colours]))


def _draw(pipeline: coltran.Pipeline, photos: list[np.ndarray], seed: int, stage: str, way: str) -> list[np.ndarray]:
    drawn = pipeline.colorize(photos, seed=seed, top_p=0.9, stage=stage, levels=way, border="keep")
    return [to_ab(one.images[0]) for one in drawn]


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
