# SPDX-License-Identifier: Apache-2.0
"""A visitor's photograph, its colourings, and how they are shown.

A session holds no image at full size: the uploaded file is read again when a full result is asked for.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from coltran.errors import UserError
from coltran.image import PhotoError, to_eight_bits
from coltran.photo import files
from coltran.photo.border import Border
from coltran.photo.decoding import decode
from coltran.photo.hints import Hint, hinted_labels
from coltran.photo.levels import Levels
from coltran.photo.overlay import heat, shrink
from coltran.photo.recolor import luminance
from coltran.photo.results import encode_coloring
from coltran.photo.view import View
from coltran.pipeline import Pipeline
from coltran.sampling.assess import MOST_BITS, Assessment, assess
from coltran.sampling.reach import reach

SHOWN = 1280  # pixels of the longer side of what is shown
MOST_SIDE = 65_500  # pixels of a side: what a JPEG can have
MOST_COLORINGS = 64  # of a photograph, that are kept
SURPRISED = 12.0  # bits of surprise that are shown as the brightest
WARMTH = np.array([22.0, 2.0, -24.0], np.float32)  # levels that the most warmth adds to red, green and blue


@dataclass
class Coloring:
    """One colouring."""

    number: int
    labels: np.ndarray  # int64 [h, w]
    image: np.ndarray  # uint8 [h, w, 3], as the networks drew it
    sample: int
    bits: float  # a pixel
    options: dict[str, Any]  # of `Pipeline.colorize`
    hints: list[dict[str, Any]]  # strokes as the browser sent them

    def told(self) -> dict[str, Any]:
        """What the browser has to know."""
        asked = {name: self.options[name] for name in ("seed", "particles", "temperature", "top_p")}
        known = {"number": self.number, "sample": self.sample, "hints": self.hints}
        return asked | known | {"bits": round(self.bits, 3)}


@dataclass(frozen=True)
class Adjustment:
    """What a person changes of a colouring without the networks."""

    saturation: float = 1.0  # 0 .. 2, what the chroma is multiplied by
    warmth: float = 0.0  # -1 .. 1
    restore: bool = False  # levels, as --levels restore
    border: bool = False  # colour a print's border too

    def __post_init__(self) -> None:
        if not (0 <= self.saturation <= 2 and -1 <= self.warmth <= 1):
            raise UserError("Saturation goes from 0 to 2, and warmth from -1 to 1.")

    def render(self, view: View, image: np.ndarray) -> np.ndarray:
        """A view's photograph, uint8 or uint16 [H, W, 3], with the colours that the networks drew."""
        view = replace(view, shown=view.levels.gentle() if self.restore else Levels())
        if self != Adjustment():
            small = image.astype(np.float32)
            luma = luminance(small)[..., None]
            image = luma + self.saturation * (small - luma) + self.warmth * WARMTH
        if view.border is not None and self.border:
            height, width = view.whole.shape[:2]
            left, top, right, bottom = view.border.inner
            down, across = image.shape[0] / (bottom - top), image.shape[1] / (right - left)
            above, below = round(top * down), round((height - bottom) * down)
            before, behind = round(left * across), round((width - right) * across)
            image = np.pad(image, [(above, below), (before, behind), (0, 0)], "edge")
            view = replace(view, border=None)
        return view.recolor([image])[0]


@dataclass
class Session:
    """A photograph and all that was made of it."""

    path: Path  # the uploaded file
    name: str  # of it, as the person knows it
    width: int  # of the photograph, upright
    height: int
    view: View  # of the photograph in gray, at most SHOWN pixels a side
    key: str = field(default_factory=lambda: secrets.token_urlsafe(16))  # who knows it may see and change this
    colorings: dict[int, Coloring] = field(default_factory=dict)
    made: int = 0  # colourings so far
    used: float = field(default_factory=time.time)

    def told(self) -> dict[str, Any]:
        """What the browser has to know."""
        return {
            "key": self.key, "name": self.name, "width": self.width, "height": self.height,
            "bordered": self.view.border is not None, "colorings": [one.told() for one in self.colorings.values()],
        }  # fmt: skip

    def read(self) -> files.Photograph:
        """The uploaded photograph.

        Raises:
            PhotoError: it was not used for too long, and is deleted.
        """
        os.utime(self.path)
        with self.path.open("rb") as file:
            return files.read(self.name, file)

    def add(self, **known: Any) -> Coloring:
        """A new colouring, in place of the oldest where there are too many."""
        self.made += 1
        found = Coloring(self.made, **known)
        self.colorings[found.number] = found
        if len(self.colorings) > MOST_COLORINGS:
            del self.colorings[min(self.colorings)]
        return found

    def coloring(self, number: int) -> Coloring:
        """One of the colourings.

        Raises:
            UserError: there is none of that number.
        """
        if number not in self.colorings:
            raise UserError("This colouring is not there any more.")
        return self.colorings[number]

    def region(self, strokes: Sequence[Sequence[Hint]]) -> np.ndarray:
        """The cells that hints reach: bool [h, w]."""
        scale = self.view.whole.shape[1] / self.width
        small = [
            Hint(int((h.x + 0.5) * scale), int((h.y + 0.5) * scale), h.color, round(h.radius * scale))
            for hints in strokes
            for h in hints
        ]
        return reach(hinted_labels(small, self.view), self.view.gray_low)[0] > 0


# What strangers may send; others of Pillow's decode before they tell a size, or start other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "JPEG2000", "PPM", "TGA")


def open_photo(pipeline: Pipeline, path: Path, name: str, most_pixels: int) -> Session:
    """A session with an uploaded photograph.

    Raises:
        PhotoError: it cannot be read, or has more than `most_pixels` or MOST_SIDE, which is known before it is decoded.
    """
    Image.init()
    served = [one for one in FORMATS if one in Image.OPEN]  # a build of Pillow may lack some
    with path.open("rb") as file:
        size = decode(name, lambda image, _: image.size, file=file, formats=served)
    pixels, side = size[0] * size[1], max(size)
    if side > MOST_SIDE:
        raise PhotoError(f"{name} has a side of {side} pixels; this page takes up to {MOST_SIDE}.")
    if pixels > most_pixels:
        raise PhotoError(f"{name} has {pixels / 1e6:.1f} megapixels; this page takes up to {most_pixels / 1e6:g}.")
    with path.open("rb") as file:
        found = files.read(name, file).pixels
    return Session(path, name, found.shape[1], found.shape[0], _small(pipeline.look(found)))


def _small(view: View) -> View:
    """A view of the same, in gray and at most SHOWN pixels a side, which the networks see as they see it."""
    photo = view.whole if view.whole.dtype == np.uint8 else np.repeat(to_eight_bits(view.whole)[..., None], 3, -1)
    gray = np.rint(luminance(shrink(photo, SHOWN))).astype(np.uint8)
    whole = np.broadcast_to(gray[..., None], (*gray.shape, 3))
    if view.border is None:
        return replace(view, whole=whole, photo=whole)
    down, across = (a / b for a, b in zip(whole.shape, view.whole.shape[:2], strict=False))
    scales = (across, down, across, down)
    inner, outer = (
        tuple(round(edge * scale) for edge, scale in zip(edges, scales, strict=True))
        for edges in (view.border.inner, view.border.outer)
    )
    border = Border(inner, outer, view.border.paper)
    left, top, right, bottom = inner
    return replace(view, whole=whole, photo=whole[top:bottom, left:right], left=left, top=top, border=border)


def full(pipeline: Pipeline, session: Session, coloring: Coloring, adjustment: Adjustment) -> tuple[str, bytes]:
    """A colouring at the photograph's own size, with all that its file had: the file's name and content.

    Raises:
        PhotoError: the photograph is gone.
    """
    photo = session.read()
    pixels = adjustment.render(pipeline.look(photo.pixels), coloring.image)
    content = encode_coloring(
        pixels, photo, coloring.options | {"size": "original", "fit": "stretch"}, format=None, quality=95,
        sample=coloring.sample, bits=coloring.bits,
    )  # fmt: skip
    return f"{Path(session.name).stem}-coloured{files.FORMATS[photo.format]}", content


def swatches(pipeline: Pipeline, session: Session, x: int, y: int) -> list[dict[str, Any]]:
    """Six plausible colours of a pixel of the photograph, and their shares; none where the networks have no guide."""
    if pipeline.guide is None:
        return []
    try:
        found = pipeline.swatches(session.read().pixels, x, y)
    except ValueError:
        return []  # on the border
    return [{"color": "#{:02x}{:02x}{:02x}".format(*color), "share": round(share, 4)} for color, share in found]


def chart(pipeline: Pipeline, session: Session, coloring: Coloring, what: str) -> np.ndarray:
    """A map over the photograph, uint8 [h, w, 3]: where the networks were "unsure", or what is "surprising" here."""
    known = [one.labels for one in session.colorings.values()] if what == "unsure" else [coloring.labels]
    assessed: Assessment = assess(pipeline.colorizer, session.view, known[-8:])
    values, most = (assessed.entropy, MOST_BITS) if what == "unsure" else (assessed.surprise[0], SURPRISED)
    result = np.array(session.view.whole)
    height, width = session.view.photo.shape[:2]
    top, left = session.view.top, session.view.left
    result[top : top + height, left : left + width] = heat(session.view.photo, values, most, SHOWN)
    return result
