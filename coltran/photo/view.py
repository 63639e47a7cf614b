# SPDX-License-Identifier: Apache-2.0
"""A photograph as the networks see it: without its border, gray, at full range, small, and cut into squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from coltran.image import area_resize, center_square, colors_to_labels, photo_to_gray, to_bits, to_eight_bits
from coltran.photo import squares
from coltran.photo.border import Border, find_border, recolor_print
from coltran.photo.levels import Levels, find_levels
from coltran.photo.recolor import luminance, recolor

LEVELS = ("auto", "keep", "restore")
BORDERS = ("auto", "keep")


@dataclass(frozen=True)
class View:
    """The part of a photograph that is coloured, and the strip that it becomes; a cell is a pixel of `gray_low`."""

    photo: np.ndarray  # uint8 [H, W, 3] or gray uint16 [H, W], that part at its own size
    left: int  # where it begins in the whole photograph
    top: int
    gray_high: np.ndarray  # uint8, the strip at the spatial upsampler's scale
    gray_low: np.ndarray  # uint8 [h, w], at the colorizer's
    axis: int  # along which the squares lie
    begins: list[int]  # of the squares, in cells
    levels: Levels  # by which the networks see it
    shown: Levels  # by which a person sees the result
    whole: np.ndarray  # as `photo`, with the border that is left neutral round it
    border: Border | None

    def square(self, strip: np.ndarray | Tensor, k: int, side: int) -> Any:
        """The k-th square of a strip [..., h, w] or [h, w, 3] at any scale, `side` of its pixels wide; a view.

        A tensor may have axes in front, an array behind.
        """
        begin = self.begins[k] * (side // self.gray_low.shape[1 - self.axis])
        if isinstance(strip, Tensor):
            return strip.narrow(strip.dim() - 2 + self.axis, begin, side)
        return strip[begin : begin + side] if self.axis == 0 else strip[:, begin : begin + side]

    def labels(self) -> np.ndarray:
        """The labels of the colours that the photograph has, each of the mean colour of its cell: int64 [h, w]."""
        photo = self.photo
        if photo.dtype == np.uint16:
            photo = np.repeat(to_eight_bits(photo)[..., None], 3, -1)
        small = self.levels.stretch_colors(area_resize(photo, self.gray_high.shape))
        return colors_to_labels(to_bits(area_resize(small, self.gray_low.shape), 8, 3))

    def cells(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the cells that hold pixels of the whole photograph; outside of 0 .. h or w beyond it."""
        (height, width), (rows, columns) = self.photo.shape[:2], self.gray_low.shape
        return (y - self.top) * rows // height, (x - self.left) * columns // width

    @property
    def chroma(self) -> float:
        """What the chroma that the networks give is multiplied by, so that it fits the contrast of the result."""
        return min(1.0, self.shown.gain * self.levels.chroma)

    def gray(self) -> np.ndarray:
        """The luminance of the photograph as it is, at the result's size: uint8 [H, W]."""
        return np.rint(luminance(self.whole)).astype(np.uint8)

    def recolor(self, drawn: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The photograph with colours that the networks drew, its border left neutral.

        Args:
            drawn: uint8 [h, w, 3] each, of any size, stretched over the part that is coloured.

        Returns:
            uint8 [H, W, 3] each, at the photograph's own size; uint16 where it has 16 bits.
        """
        luma = luminance(self.whole)
        if not self.shown.is_identity:
            luma = self.shown.stretch(luma)
        kind = self.whole.dtype.type
        if self.border is None:
            return [recolor(luma, image, kind, self.chroma) for image in drawn]
        return [recolor_print(luma, image, self.border, kind, self.chroma) for image in drawn]


def look(photo: np.ndarray, *, fit: str, low: int, high: int, levels: str = "keep", border: str = "keep") -> View:
    """The view of a photograph, uint8 [H, W, 3] or uint16 [H, W], for networks of `low` and `high` pixels a side.

    Args:
        fit: "stretch" takes the whole photograph, "crop" its central square.
        levels: "auto" brings a faded photograph to full range for the networks, "restore" its result as well (within
            limits), "keep" neither (`coltran.photo.levels`).
        border: "auto" leaves out a print's border, and leaves it neutral (`coltran.photo.border`); "keep" does not.
    """
    found = find_border(photo if photo.dtype == np.uint8 else to_eight_bits(photo)) if border == "auto" else None
    left, top, right, bottom = found.inner if found else (0, 0, photo.shape[1], photo.shape[0])
    inside = photo[top:bottom, left:right]
    part = center_square(inside) if fit == "crop" else inside
    height, width = squares.strip(part.shape[0], part.shape[1], low)
    scale = high // low
    gray = to_eight_bits(part) if part.dtype == np.uint16 else photo_to_gray(part)
    seen = Levels() if levels == "keep" else find_levels(gray)
    if part.dtype == np.uint16 and not seen.is_identity:  # of which fewer than 256 may be used
        gray = np.rint(seen.stretch(luminance(part))).astype(np.uint8)
    else:
        gray = seen.stretch_bytes(gray)
    gray_high = area_resize(gray, (height * scale, width * scale))
    return View(
        part,
        left=left + (inside.shape[1] - part.shape[1]) // 2,
        top=top + (inside.shape[0] - part.shape[0]) // 2,
        gray_high=gray_high,
        gray_low=area_resize(gray_high, (height, width)),
        axis=int(width > height),
        begins=squares.starts(max(height, width), low),
        levels=seen,
        shown=seen.gentle() if levels == "restore" else Levels(),
        whole=part if fit == "crop" else photo,
        border=None if fit == "crop" else found,
    )
