# SPDX-License-Identifier: Apache-2.0
"""Makes docs/gallery.md: each photograph in coltran/demo, cut to some shape, in gray and in its first three colourings.

    make gallery

Also each photograph by the first networks, whose folder is the argument, beside those in the package. Seed 0 and the
defaults of `python -m coltran.colorize`; nothing is picked by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import coltran
from coltran.colorize import parse_arguments
from coltran.image import load_photo
from coltran.photo.sheets import sheet_of
from coltran.pipeline import Pipeline

ROOT = Path(__file__).resolve().parent.parent
TOP_P = parse_arguments(["none", "-o", "none"]).top_p
SHAPES = {  # height and width of the cut, from the middle
    "whole": (256, 256),
    "landscape": (168, 256),
    "portrait": (256, 176),
    "panorama": (64, 256),
}


def cut(photo: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of a photograph."""
    top, left = (photo.shape[0] - height) // 2, (photo.shape[1] - width) // 2
    return photo[top : top + height, left : left + width]


def compare(photos: Sequence[np.ndarray], pipelines: Mapping[str, Pipeline]) -> np.ndarray:
    """A row for each photograph: in gray, and the colourings of seed 0 by each of the pipelines."""
    results = {name: made.colorize(photos, samples=2, top_p=TOP_P, seed=0) for name, made in pipelines.items()}
    rows = []
    for n in range(len(photos)):
        coloured = [(name, image) for name, found in results.items() for image in found[n].images]
        rows.append(sheet_of([("gray", next(iter(results.values()))[n].gray), *coloured]))
    return np.concatenate(rows)


def main(first: str) -> None:
    """Writes the page and its pictures; `first` is the folder of the first networks."""
    names = sorted(path.stem for path in (ROOT / "coltran" / "demo").glob("*.jpg"))
    photos = [load_photo(ROOT / "coltran" / "demo" / f"{name}.jpg") for name in names]
    pipeline = coltran.from_pretrained()
    pictures = ROOT / "docs" / "images" / "gallery"
    pictures.mkdir(parents=True, exist_ok=True)
    page = [
        "# Gallery",
        "",
        "Made by `make gallery` with the weights in the package and the program's defaults, seed 0; nothing is picked",
        "by hand. Each row: the photograph in gray, which is all that the networks see of it, and its first three",
        "colourings, likeliest first. The photographs and their licences: [coltran/demo](../coltran/demo/README.md).",
    ]
    for shape, size in SHAPES.items():
        page += ["", f"## {shape.capitalize()}", ""]
        results = pipeline.colorize([cut(photo, *size) for photo in photos], samples=3, top_p=TOP_P, seed=0)
        for name, result in zip(names, results, strict=True):
            order = np.argsort(-np.array(result.log_prob), kind="stable")
            row = [np.repeat(result.gray[..., None], 3, -1), *(result.images[k] for k in order)]
            axis = 0 if shape == "panorama" else 1
            Image.fromarray(np.concatenate(row, axis)).save(pictures / f"{name}-{shape}.jpg", quality=90)
            bits = ", ".join(f"{-result.log_prob[k]:.2f}" for k in order)
            page += [f"![{name}, {shape}](images/gallery/{name}-{shape}.jpg)", "", f"{bits} bits a pixel", ""]
    sheet = compare(photos, {"first networks": coltran.from_pretrained(first), "present networks": pipeline})
    Image.fromarray(sheet).save(pictures / "before-after.jpg", quality=80)
    page += [
        "## Before and after",
        "",
        "In gray, twice by the first networks that came with this package and twice by the present ones: the same two",
        "seeds and options.",
        "",
        "![Four photographs by the first and by the present networks](images/gallery/before-after.jpg)",
    ]
    text = "\n".join(page).rstrip() + "\n"
    (ROOT / "docs" / "gallery.md").write_text(text.replace("\n\n\n", "\n\n"), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
