# SPDX-License-Identifier: Apache-2.0
"""A photograph as the networks see it: gray, small, and cut into one or several squares along a strip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from coltran.image import area_resize, center_square, colors_to_labels, photo_to_gray, to_bits, to_eight_bits
from coltran.photo import squares


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
        small = area_resize(area_resize(photo, self.gray_high.shape), self.gray_low.shape)
        return colors_to_labels(to_bits(small, 8, 3))

    def cells(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the cells that hold pixels of the whole photograph; outside of 0 .. h or w beyond it."""
        (height, width), (rows, columns) = self.photo.shape[:2], self.gray_low.shape
        return (y - self.top) * rows // height, (x - self.left) * columns // width


def look(photo: np.ndarray, *, fit: str, low: int, high: int) -> View:
    """The view of a photograph, uint8 [H, W, 3] or uint16 [H, W], for networks of `low` and `high` pixels a side.

    `fit` "stretch" takes the whole photograph, "crop" its central square.
    """
    part = center_square(photo) if fit == "crop" else photo
    height, width = squares.strip(part.shape[0], part.shape[1], low)
    scale = high // low
    gray = to_eight_bits(part) if part.dtype == np.uint16 else photo_to_gray(part)
    gray_high = area_resize(gray, (height * scale, width * scale))
    return View(
        part,
        left=(photo.shape[1] - part.shape[1]) // 2,
        top=(photo.shape[0] - part.shape[0]) // 2,
        gray_high=gray_high,
        gray_low=area_resize(gray_high, (height, width)),
        axis=int(width > height),
        begins=squares.starts(max(height, width), low),
    )
