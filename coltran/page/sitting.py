# SPDX-License-Identifier: Apache-2.0
"""One person at the page: a photograph, what they wish of it, and the colourings that there are of it.

A sitting holds no image at the photograph's own size: of that there is the uploaded file, which is read again when a
full result is asked for. So fifty sittings take some ten megabytes.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from coltran.image import PhotoError, reading, to_eight_bits
from coltran.page.live import live
from coltran.photo import files
from coltran.photo.hints import Box, Hint, Wishes
from coltran.photo.overlay import heat, paint, shrink
from coltran.photo.recolour import for_photographs, luminance, recolour
from coltran.photo.results import write_colouring
from coltran.photo.sheets import sheet_of
from coltran.pipeline import Pipeline
from coltran.sampling.assess import MOST_BITS, Assessment, assess

SHOWN = 768  # pixels of the longer side of what is shown while one works
TILE = 320  # and of a tile while colours appear
MOST_SIDE = 65_500  # pixels of a side: what a JPEG can have
SURPRISED = 12.0  # bits of surprise that are shown as the brightest


@dataclass
class Sitting:
    """What a person has in hand."""

    path: Path  # the uploaded file
    width: int  # of the photograph, upright
    height: int
    small: np.ndarray  # uint8 [h, w, 3] in gray, at most SHOWN pixels a side
    hints: list[Hint] = field(default_factory=list)
    corners: list[tuple[int, int]] = field(default_factory=list)  # of the part to draw again: none, one or two
    options: dict[str, Any] = field(default_factory=dict)  # with which the colourings were drawn
    labels: list[np.ndarray] = field(default_factory=list)  # of each colouring, likeliest first: [h, w]
    images: list[np.ndarray] = field(default_factory=list)  # as the networks draw them
    bits: list[float] = field(default_factory=list)  # a pixel
    chosen: int = 0
    offered: list[tuple[int, int, int]] = field(default_factory=list)  # colours, at the place that was last clicked
    drawing: bool = False  # now
    closed: bool = False  # the person has another photograph
    own: str = field(default_factory=lambda: secrets.token_hex(8))  # folder of its results, beside the upload

    def read(self) -> files.Photograph:
        """The uploaded photograph, which counts as used now.

        Raises:
            PhotoError: it was not used for too long, and is deleted.
        """
        photo = files.read(self.path)
        os.utime(self.path)
        return photo

    @property
    def box(self) -> Box | None:
        """The part to draw again, where both corners are there."""
        if len(self.corners) < 2:
            return None
        (x0, y0), (x1, y1) = self.corners
        return Box(min(x0, x1), min(y0, y1), max(x0, x1) + 1, max(y0, y1) + 1)

    def place(self, x: float, y: float) -> tuple[int, int]:
        """The pixel of the photograph under a pixel of `small`."""
        scale = self.width / self.small.shape[1]
        return self.inside((x + 0.5) * scale, (y + 0.5) * scale)

    def inside(self, x: float, y: float) -> tuple[int, int]:
        """The pixel of the photograph at x and y, or the last one before them; both at least 0."""
        return min(int(x), self.width - 1), min(int(y), self.height - 1)


# What strangers may send; others of Pillow's decode before they tell a size, or start other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "JPEG2000", "PPM", "TGA")


def open_photo(path: str | Path, most_pixels: int) -> Sitting:
    """A sitting with an uploaded photograph.

    Raises:
        PhotoError: it cannot be read, or has more than `most_pixels` or MOST_SIDE, which is known before it is decoded.
    """
    name = Path(path).name  # of the file as the person knows it
    Image.init()
    served = [one for one in FORMATS if one in Image.OPEN]  # a build of Pillow may lack some
    with reading(name), Image.open(path, formats=served) as opened:
        pixels, side = opened.width * opened.height, max(opened.size)
    if side > MOST_SIDE:
        raise PhotoError(f"{name} has a side of {side} pixels; this page takes up to {MOST_SIDE}.")
    if pixels > most_pixels:
        raise PhotoError(f"{name} has {pixels / 1e6:.1f} megapixels; this page takes up to {most_pixels / 1e6:g}.")
    with open(path, "rb") as file:
        found = files.read(name, file).pixels
    rgb = np.repeat(to_eight_bits(found)[..., None], 3, -1) if found.dtype == np.uint16 else found
    gray = luminance(shrink(rgb, SHOWN)).round().astype(np.uint8)
    return Sitting(Path(path), found.shape[1], found.shape[0], np.repeat(gray[..., None], 3, -1))


def draw(
    pipeline: Pipeline, sitting: Sitting, stopped: threading.Event, *, redraw: bool = False, **options: Any
) -> Iterator[np.ndarray]:
    """Draws colourings of a sitting's photograph, which takes them up when they are all there.

    Args:
        stopped: ends the work when it is set.
        redraw: keep the chosen colouring outside of the sitting's box.
        options: of `Pipeline.colour`.

    Yields:
        the colourings as they come into being, row by row: uint8 [H, W, 3]. Whoever stops listening ends the work.

    Raises:
        Stopped: it was ended.
        PhotoError, HintError: see `Pipeline.colour`.
    """
    kept = sitting.labels[sitting.chosen] if redraw and sitting.box else None
    wishes = Wishes(tuple(sitting.hints), kept, sitting.box if kept is not None else None)
    photo = sitting.read()
    tiles = 1 if options["particles"] > 1 else min(options["samples"], 9)

    def show(labels: list[np.ndarray]) -> np.ndarray:
        images = [paint(sitting.small, one, TILE) for one in labels]
        if len(images) == 1:
            return images[0]
        return sheet_of([(f"colouring {number}", image) for number, image in enumerate(images, 1)])

    found = yield from live(
        lambda preview, progress: pipeline.colour(
            [photo.pixels], [wishes], size="network", preview=preview, progress=progress, **options
        )[0],
        tiles,
        show,
        stopped,
    )
    order = np.argsort(-np.array(found.log_prob), kind="stable").tolist()
    best = found.choose(order)
    sitting.labels, sitting.bits = best.labels, [-one for one in best.log_prob]
    sitting.images = for_photographs(best.images, pipeline.stages[-1])
    sitting.options = options | {"size": "original", "samples_of_seed": order}
    sitting.chosen = 0


def colourings(sitting: Sitting) -> list[np.ndarray]:
    """The colourings at the size of what is shown, likeliest first: uint8 [h, w, 3]."""
    luma = luminance(sitting.small)
    return [recolour(luma, image) for image in sitting.images]


def full(pipeline: Pipeline, sitting: Sitting) -> tuple[np.ndarray, Path]:
    """The chosen colouring at the photograph's own size, and a file of it with all that the photograph's had.

    Returns:
        uint8 [H, W, 3], and the file, in a folder that no other sitting shares, as the upload's is: two who upload the
        same photograph have one file.
    """
    photo = sitting.read()
    view = pipeline.look(photo.pixels)
    pixels = recolour(luminance(view.photo), sitting.images[sitting.chosen], view.photo.dtype.type)
    path = sitting.path.parent / sitting.own / f"{sitting.path.stem}-coloured{files.FORMATS[photo.format]}"
    path.parent.mkdir(exist_ok=True)
    write_colouring(
        pixels, path, photo, sitting.options | {"fit": "stretch"}, format=None, quality=95,
        sample=sitting.options["samples_of_seed"][sitting.chosen], bits=sitting.bits[sitting.chosen],
    )  # fmt: skip
    return to_eight_bits(pixels) if pixels.dtype == np.uint16 else pixels, path


def assessment(pipeline: Pipeline, sitting: Sitting) -> Assessment:
    """What the model thinks of the colourings."""
    return assess(pipeline.colorizer, pipeline.look(sitting.read().pixels), sitting.labels)


def unsure(sitting: Sitting, assessed: Assessment) -> np.ndarray:
    """Where the model was unsure, as warmth over the photograph: uint8 [h, w, 3]."""
    return heat(sitting.small, assessed.entropy, MOST_BITS, SHOWN)


def surprising(sitting: Sitting, assessed: Assessment) -> np.ndarray:
    """Which pixels of the chosen colouring the model finds unlikely: uint8 [h, w, 3]."""
    return heat(sitting.small, assessed.surprise[sitting.chosen], SURPRISED, SHOWN)
