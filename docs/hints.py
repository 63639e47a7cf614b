# SPDX-License-Identifier: Apache-2.0
"""Makes docs/hints.md and its pictures from photographs in coltran/demo: hints, particles, parts drawn anew, scores.

    make hints

Seed 0, the weights in the package and the defaults of the programs; nothing is picked by hand but the hints.
"""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import coltran
from coltran.colorize import parse_arguments
from coltran.image import load_photo
from coltran.photo.hints import Box, Hint, parse_hint
from coltran.photo.variety import choose_diverse, differences
from coltran.pipeline import Colorized
from coltran.score import ask_about, in_words, score

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "coltran" / "demo"
PICTURES = ROOT / "docs" / "images" / "hints"
HINTS = {
    "moose": ["60,40,#468c28,10", "200,30,#468c28,10"],
    "tulips": ["183,110,#d22832,10", "140,140,#d22832,8"],
}
PARTICLES = 32
BOX = Box(0, 0, 256, 128)
TOP_P = parse_arguments(["none", "-o", "none"]).top_p


def gray_of(found: Colorized) -> Image.Image:
    """What the networks saw."""
    return Image.fromarray(found.gray).convert("RGB")


def dabbed(found: Colorized, hints: list[Hint]) -> np.ndarray:
    """The gray photograph with the hints on it."""
    image = gray_of(found)
    for x, y, colour, radius in hints:
        ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return np.asarray(image)


def save(name: str, *tiles: np.ndarray) -> str:
    """Puts pictures side by side into a file, and gives the line that shows it."""
    Image.fromarray(np.concatenate(tiles, 1)).save(PICTURES / f"{name}.jpg", quality=90)
    return f"images/hints/{name}.jpg"


def main() -> None:
    """Writes the page and its pictures."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    pipeline = coltran.from_pretrained()
    values = {"particles": str(PARTICLES)}
    for name, flags in HINTS.items():
        photo, hints = DEMO / f"{name}.jpg", [parse_hint(flag) for flag in flags]
        free = pipeline(photo, top_p=TOP_P)
        alone = pipeline(photo, top_p=TOP_P, hints=hints)
        together = pipeline(photo, top_p=TOP_P, hints=hints, particles=PARTICLES, samples=2)
        images = (found.images[0] for found in (free, alone))
        values[f"{name}_picture"] = save(name, dabbed(free, hints), *images, *together.images)
        values[f"{name}_flags"] = " ".join(f"--hint {flag}" for flag in flags)
        values[f"{name}_effective"] = f"{together.effective:.1f}"

    photo = DEMO / "moose.jpg"
    first = pipeline(photo, top_p=TOP_P, samples=8)
    again = pipeline(photo, top_p=TOP_P, samples=2, seed=1, kept=first.labels[0], redraw=BOX)
    values["redraw_picture"] = save("redraw", first.images[0], *again.images)
    values["box"] = ",".join(map(str, BOX))
    order = choose_diverse(differences(first.images), int(np.argmax(first.log_prob)), 3)
    values["diverse_picture"] = save("diverse", *(first.images[s] for s in order))

    photo = DEMO / "tulips.jpg"
    answer, entropy = ask_about(pipeline, photo)
    answer["photo"] = str(photo.relative_to(ROOT))
    values["asked"] = "\n".join(f"    {line}" for line in in_words(answer).splitlines())
    bits, surprise = score(pipeline, photo)
    values["maps_picture"] = save("maps", load_photo(photo), surprise, entropy)
    values["bits"] = f"{bits:.2f}"
    template = string.Template((ROOT / "docs" / "hints.in.md").read_text(encoding="utf-8"))
    (ROOT / "docs" / "hints.md").write_text(template.substitute(values), encoding="utf-8")


if __name__ == "__main__":
    main()
