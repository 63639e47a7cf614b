# SPDX-License-Identifier: Apache-2.0
"""Makes the sheet of docs/film.md: frames in gray, each coloured on its own, and as a film.

    python docs/film.py

The clip is made of a photograph in coltran/demo (`bench/film.py`); seed 0 and the program's defaults, nothing picked.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.film import make  # noqa: E402
from coltran.film.film import Film  # noqa: E402
from coltran.image import load_photo  # noqa: E402
from coltran.loading import from_pretrained  # noqa: E402

SHOWN = range(2, 25, 4)


def main() -> None:
    """Writes docs/images/film/frames.jpg."""
    pipeline = from_pretrained()
    clip = make("pan", [load_photo(ROOT / "coltran" / "demo" / f"{name}.jpg") for name in ("tulips", "fjord")])
    grays = [clip.grays[n] for n in SHOWN]
    alone = [found.images[0] for found in pipeline.colorize(grays, seed=0, top_p=0.9)]
    film = list(Film(pipeline)(clip.grays))
    sides = ([np.repeat(gray[..., None], 3, -1) for gray in grays], alone, [film[n] for n in SHOWN])
    rows = [np.concatenate([image[::2, ::2] for image in images], 1) for images in sides]
    target = ROOT / "docs" / "images" / "film" / "frames.jpg"
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(target, quality=90)


if __name__ == "__main__":
    main()
