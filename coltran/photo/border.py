# SPDX-License-Identifier: Apache-2.0
"""The border round a print: paper, mount or a scanner's lid, which stays neutral and is not shown to the networks.

A border begins at a side of the scan, has one colour along that side, and ends in a straight line. So for each line of
pixels that runs inwards from a side, the depth at which it leaves the border's colour is found; where most lines of a
side do so at the same depth, there is a border so deep. An object before a plain ground ends at all depths. What is
left is searched again, as a print with a white margin may lie on a dark lid.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from coltran.photo.recolor import recolor

SIDE = 640  # pixels of the longer side at which a border is looked for
OFF = 14.0  # levels by which a channel leaves the border's colour
UNIFORM = 10.0  # levels that the border's colour may vary along a side: nine tenths of it
ALIKE = 24.0  # levels by which the borders of two sides may differ in a channel
EXTREME = 6.0  # levels from black or white within which a border may be at one side alone
RAGGED = 0.02  # of the shorter side: how much the edge of a print may wander
SHARE = 0.6  # of a side's lines that have to end within that
THIN = 0.006  # of the shorter side: the least border
MOST = 0.35  # of a side's length that a border may take
ROUNDS = 3  # borders within each other


@dataclass(frozen=True)
class Border:
    """Where a print lies in a scan, in its pixels, and which pixels round it are border."""

    inner: tuple[int, int, int, int]  # left, top, right, bottom: within it there is no border
    outer: tuple[int, int, int, int]  # beyond it there is nothing else; between the two `paper` says it
    paper: np.ndarray  # uint8 [h, w], the whole scan at a size of its own: 255 where it is border


def find_border(photo: np.ndarray) -> Border | None:
    """The border of a scan, uint8 [H, W, 3] or [H, W]; None where it has none."""
    height, width = photo.shape[:2]
    shrink = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    small = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
    small = cv2.medianBlur(np.ascontiguousarray(small), 3)  # specks
    small = np.atleast_3d(small).astype(np.float32)
    top, left, bottom, right = 0, 0, *small.shape[:2]
    ragged = [0, 0, 0, 0]
    paper = np.zeros(small.shape[:2], np.uint8)
    for _ in range(ROUNDS):
        part = small[top:bottom, left:right]
        sides = _sides(part)
        if not any(sides):
            break
        seen = np.zeros(part.shape[:2], bool)
        for turn, side in enumerate(sides):
            if side is not None:
                np.rot90(seen, turn)[:] |= side.paper
        paper[top:bottom, left:right] |= 255 * seen.astype(np.uint8)
        ragged = [side.deepest - side.least if side else 0 for side in sides]
        up, at_right, down, at_left = (side.deepest if side else 0 for side in sides)
        top, bottom, left, right = top + up, bottom - down, left + at_left, right - at_right
    if (top, left, bottom, right) == (0, 0, *small.shape[:2]):
        return None
    up, at_right, down, at_left = ragged
    x, y = width / size[0], height / size[1]
    inner = (left, top, right, bottom)
    outer = (left - at_left, top - up, right + at_right, bottom + down)
    scaled = [(int(np.ceil(x * a)), int(np.ceil(y * b)), int(x * c), int(y * d)) for a, b, c, d in (inner, outer)]
    return Border(scaled[0], scaled[1], paper)


@dataclass(frozen=True)
class _Side:
    colour: np.ndarray  # [c], the border's
    least: int  # pixels: where the first of the lines leave it
    deepest: int  # where nearly all have
    paper: np.ndarray  # bool [h, w], turned so that the side is on top: what of the border belongs to this side


def _sides(part: np.ndarray) -> list[_Side | None]:
    """The borders at the top, right, bottom and left; at one side alone only where it is black or white."""
    sides = [_side(np.rot90(part, turn)) for turn in range(4)]
    found: list[_Side | None] = []
    for turn, side in enumerate(sides):
        if side is None:
            found.append(None)
            continue
        extreme = bool((side.colour <= EXTREME).all() or (side.colour >= 255 - EXTREME).all())
        facing = sides[(turn + 2) % 4]
        alike = facing is not None and float(np.abs(facing.colour - side.colour).max()) <= ALIKE
        found.append(side if extreme or alike else None)
    return found


def _side(part: np.ndarray) -> _Side | None:
    """The border at the top of a part, float32 [h, w, c]."""
    height, width = part.shape[:2]
    shorter = min(height, width)
    thin, wander = max(2, round(THIN * shorter)), max(2, round(RAGGED * shorter))
    if shorter < 32:
        return None
    first = np.median(part[:thin], axis=0)  # [w, c]
    colour = np.median(first, axis=0)
    varies = np.percentile(np.abs(first - colour).max(-1), 90)
    if varies > UNIFORM:
        return None
    most = int(MOST * height)
    off = np.abs(part[: most + wander] - colour).max(-1) > OFF
    lasting = off[:-1] & off[1:]  # of two pixels at least: the border has grain
    depth = np.where(lasting.any(0), lasting.argmax(0), len(off))  # [w]
    # The ends of the lines that run within the borders at the left and right say nothing of this side.
    inside = depth[(depth < len(off))]
    if len(inside) < 0.3 * width:
        return None
    place = int(np.median(inside))
    near = np.abs(inside - place) <= wander
    across = np.flatnonzero(depth < len(off))
    spans = across[-1] - across[0] + 1
    if place < thin or place > most or near.sum() < SHARE * spans:
        return None
    least, deepest = (int(q) for q in np.percentile(inside[near], (2, 98)))
    down = np.arange(height)[:, None]
    paper = (down < np.minimum(depth, deepest)[None]) & (down < deepest)
    return _Side(colour, least, deepest, paper)


def recolor_print(
    luma: np.ndarray, small: np.ndarray, border: Border, dtype: type[np.unsignedinteger], scale: float
) -> np.ndarray:
    """`recolor` of the print alone: its border gets no colour.

    Args:
        luma: float32 [H, W] in 0..255, of the whole scan.
        small: uint8 [h, w, 3], of the print within `border.inner`; what it has beyond that gets the colours beside it.
        dtype, scale: as of `recolor`.

    Returns:
        `dtype` [H, W, 3].
    """
    most = np.iinfo(dtype).max
    neutral = np.rint(luma * np.float32(most / 255)).astype(dtype)
    result = np.repeat(neutral[..., None], 3, -1)
    (left, top, right, bottom), outer = border.inner, border.outer
    result[top:bottom, left:right] = recolor(luma[top:bottom, left:right], small, dtype, scale)
    ragged = [
        (slice(outer[1], top), slice(outer[0], outer[2]), small[:1]),
        (slice(bottom, outer[3]), slice(outer[0], outer[2]), small[-1:]),
        (slice(top, bottom), slice(outer[0], left), small[:, :1]),
        (slice(top, bottom), slice(right, outer[2]), small[:, -1:]),
    ]
    height, width = luma.shape
    rows, columns = border.paper.shape
    for down, across, beside in ragged:
        part = luma[down, across]
        if part.size:
            y = (np.arange(down.start, down.stop) * rows // height)[:, None]
            paper = border.paper[y, np.arange(across.start, across.stop) * columns // width] > 0
            colours = recolor(part, beside, dtype, scale)
            result[down, across] = np.where(paper[..., None], neutral[down, across][..., None], colours)
    return result
