# SPDX-License-Identifier: Apache-2.0
"""Edits: the colour of a pixel, or an earlier colouring of which a part is to be drawn again.

Both become labels that are imposed on the cells of a photograph's view, as `given` in `coltran.sampling.sample`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from coltran.errors import UserError
from coltran.image import colors_to_labels, labels_to_colors, to_bits
from coltran.photo.decoding import reading
from coltran.photo.exif import upright
from coltran.photo.recolor import LUMA, luminance, recolor
from coltran.photo.view import View

OPAQUE = 128  # alpha of a mask's pixels that count


class HintError(UserError, ValueError):
    """A hint that cannot be followed; the message is one sentence that says why."""


class Hint(NamedTuple):
    """A colour for a pixel of the photograph, upright."""

    x: int  # from the left, 0 first
    y: int  # from the top
    color: tuple[int, int, int]  # red, green, blue, 0 .. 255
    radius: int = 0  # of a round dab, in pixels of the photograph; 0 is the cell that holds the pixel


class Box(NamedTuple):
    """A rectangle of pixels of the photograph: `left <= x < right`, `top <= y < bottom`."""

    left: int
    top: int
    right: int
    bottom: int


def parse_hint(text: str) -> Hint:
    """`X,Y,#RRGGBB` or `X,Y,#RRGGBB,RADIUS` as a hint.

    Raises:
        HintError: it has another form.
    """
    found = re.fullmatch(r"(\d+),(\d+),#?([0-9a-fA-F]{6})(?:,(\d+))?", text.replace(" ", ""))
    if found is None:
        raise HintError(f"{text!r} is not a hint such as 120,45,#c03020 or 120,45,#c03020,12.")
    red, green, blue = bytes.fromhex(found[3])
    return Hint(int(found[1]), int(found[2]), (red, green, blue), int(found[4] or 0))


def read_mask(path: str | Path, height: int, width: int) -> list[Hint]:
    """The hints of an image of the photograph's size that is transparent but for dabs of colour.

    Raises:
        PhotoError: it cannot be read as an image.
        HintError: it has another size than height x width, or no transparency, or no dab.
    """
    with reading(path), Image.open(path) as file:
        transparent = file.has_transparency_data
        mask = np.asarray(upright(file).convert("RGBA"))
    if mask.shape[:2] != (height, width):
        sizes = f"{mask.shape[1]} x {mask.shape[0]} pixels, the photograph {width} x {height}"
        raise HintError(f"The hints in {path} have {sizes}.")
    if not transparent:
        raise HintError(f"{path} has no transparency, so nothing tells its dabs of colour from the rest.")
    y, x = np.nonzero(mask[..., 3] >= OPAQUE)
    if not len(x):
        raise HintError(f"{path} is transparent everywhere, so it holds no hint.")
    colours = map(tuple, mask[y, x, :3].tolist())
    return [Hint(*hint) for hint in zip(x.tolist(), y.tolist(), colours, strict=True)]


def coarse_labels(colours: np.ndarray, gray: np.ndarray) -> np.ndarray:
    """The labels of colours [N, 3] of 0..255 at gray levels [N]: int64 [N].

    Each colour is brought to the gray level as `coltran.photo.recolor` does it: its hue stays, and as much of its
    chroma as exists at that luminance. So the label is that of a colour of this gray, the nearest there is in that hue.
    """
    brought = recolor(gray[None].astype(np.float32), colours[None].astype(np.float32))[0]
    return colors_to_labels(to_bits(brought, 8, 3))


def shades(labels: np.ndarray, gray: np.ndarray) -> np.ndarray:
    """Colours of labels [N] that have the gray levels [N], or are as near to them as the labels allow: uint8 [N, 3].

    Where a label allows the gray, a hint of that colour imposes it.
    """
    darkest = labels_to_colors(labels).astype(np.float32)
    lighter = np.clip(gray - luminance(darkest), 0.5, 30.5)
    return np.rint(darkest + lighter[:, None]).astype(np.uint8)


def hinted_labels(hints: Iterable[Hint], view: View) -> np.ndarray:
    """The labels that hints impose on the cells of a view: int64 [h, w], -1 where there is none.

    A hint holds in the cell of its pixel, and in those whose centres lie within its radius, each at its own gray.
    Several hints in one cell count as their mean colour.

    Raises:
        HintError: a hint that lies outside the view.
    """
    labels = np.full(view.gray_low.shape, -1, np.int64)
    hints = list(hints)
    if not hints:
        return labels
    for hint in hints:
        if not (all(0 <= value <= 255 for value in hint.color) and 0 <= hint.radius < 2**31):
            raise HintError(f"A hint has a colour of 0 to 255 and a radius from 0 on, which {tuple(hint)} has not.")
    x, y = np.array([hint[:2] for hint in hints]).T
    height, width = view.photo.shape[:2]
    outside = (x < view.left) | (x >= view.left + width) | (y < view.top) | (y >= view.top + height)
    if outside.any():
        worst = hints[int(outside.argmax())]
        part = f"x {view.left} .. {view.left + width - 1}, y {view.top} .. {view.top + height - 1}"
        raise HintError(f"The hint at {worst.x},{worst.y} lies outside of what is coloured, {part}.")
    rows, columns = view.gray_low.shape
    across = view.left + (np.arange(columns) + 0.5) * width / columns - 0.5  # centres of the cells
    down = view.top + (np.arange(rows) + 0.5) * height / rows - 0.5
    cells, colours = (
        [np.ravel_multi_index(view.cells(x, y), labels.shape)],
        [np.array([h.color for h in hints], float)],
    )
    for hint in hints:
        if hint.radius:
            dab = (across - hint.x) ** 2 + (down[:, None] - hint.y) ** 2 <= hint.radius**2
            cells.append(np.flatnonzero(dab))
            colours.append(np.tile(np.array(hint.color, float), (len(cells[-1]), 1)))
    used, which = np.unique(np.concatenate(cells), return_inverse=True)
    sums = np.stack([np.bincount(which, channel) for channel in np.concatenate(colours).T], -1)
    means = sums / np.bincount(which)[:, None]
    if view.chroma != 1:  # by which it is multiplied, so that the result has the colour that was asked for
        luma = (means @ LUMA)[:, None]
        means = luma + (means - luma) / view.chroma
    labels.flat[used] = coarse_labels(means, view.gray_low.flat[used])
    return labels


def kept_labels(labels: np.ndarray, redraw: Box | None, view: View) -> np.ndarray:
    """An earlier colouring's labels [h, w], but -1 in the cells that a box of the photograph touches.

    Raises:
        HintError: the labels are not those of this view, or nothing of it lies in the box.
    """
    if labels.shape != view.gray_low.shape:
        (rows, columns), (height, width) = labels.shape, view.gray_low.shape
        raise HintError(f"The colouring to keep has {columns} x {rows} cells, the photograph {width} x {height}.")
    kept = labels.astype(np.int64)
    if redraw is None:
        return kept
    rows, columns = view.cells(np.array([redraw.left, redraw.right - 1]), np.array([redraw.top, redraw.bottom - 1]))
    inside = kept[max(rows[0], 0) : max(rows[1] + 1, 0), max(columns[0], 0) : max(columns[1] + 1, 0)]
    if not inside.size or redraw.left >= redraw.right or redraw.top >= redraw.bottom:
        raise HintError(f"Nothing of the photograph lies in the box {','.join(map(str, redraw))}.")
    inside[:] = -1
    return kept


class Edits(NamedTuple):
    """All that a person imposes on one photograph: hints, which come first, and the kept part of a colouring."""

    hints: Sequence[Hint] = ()
    kept: np.ndarray | None = None  # labels [h, w] of an earlier colouring of this photograph with the same `fit`
    redraw: Box | None = None  # the part of it that is drawn anew

    def labels(self, view: View) -> np.ndarray:
        """What is imposed on the cells of a view: int64 [h, w], -1 where a colour is to be drawn.

        Raises:
            HintError: as of `hinted_labels` and `kept_labels`.
        """
        hinted = hinted_labels(self.hints, view)
        if self.kept is None:
            if self.redraw is not None:
                raise HintError("A part is drawn anew of a colouring that is kept, and none is given.")
            return hinted
        return np.where(hinted >= 0, hinted, kept_labels(self.kept, self.redraw, view))
