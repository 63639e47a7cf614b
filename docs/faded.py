# SPDX-License-Identifier: Apache-2.0
"""Makes the pictures of faded prints in docs/photographs.md: photographs in coltran/demo, squeezed to levels 60 to 195.

    make faded

Each row: the print in gray, coloured with --levels keep, auto and restore. Seed 0 and the defaults of
`python -m coltran.colorize`; nothing is picked by hand.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import coltran
from coltran.colorize import parse_arguments
from coltran.image import load_photo
from coltran.photo.sheets import sheet_of

ROOT = Path(__file__).resolve().parent.parent
LOW, HIGH = 60, 195
NAMES = ("moose", "tulips", "fjord")


def main() -> None:
    """Writes the pictures."""
    top_p = parse_arguments(["none", "-o", "none"]).top_p
    pipeline = coltran.from_pretrained()
    folder = ROOT / "docs" / "images" / "faded"
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        photo = load_photo(ROOT / "coltran" / "demo" / f"{name}.jpg")
        faded = np.rint(LOW + photo * ((HIGH - LOW) / 255)).astype(np.uint8)
        ways = {way: pipeline(faded, levels=way, top_p=top_p, seed=0) for way in ("keep", "auto", "restore")}
        row = [("faded to 60 .. 195", ways["keep"].gray), *((f"--levels {way}", ways[way].images[0]) for way in ways)]
        Image.fromarray(sheet_of(row)).save(folder / f"{name}.jpg", quality=88)


if __name__ == "__main__":
    main()
