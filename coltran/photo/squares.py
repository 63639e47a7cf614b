# SPDX-License-Identifier: Apache-2.0
"""Which squares of a photograph the networks see: one for the whole of it, or several along a panorama.

The networks know squares. A photograph of up to 2 : 1 is stretched to one and its colours are stretched back. A longer
one is scaled to the square's side by its shorter side and covered by squares that overlap, from left to right or from
top to bottom; in the overlap the colours of the square before are imposed on the next, which goes on from them.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

WHOLE = 2.0  # the longest shape that is stretched to one square: longer side to shorter
LONGEST = 10.0  # the longest shape that is coloured at its own proportions
OVERLAP = 0.25  # of a square's side, at least


def strip(height: int, width: int, side: int) -> tuple[int, int]:
    """The size (height, width) to which a photograph is brought for squares of `side` pixels.

    One of the two is `side`; the other is too up to a ratio of 2 : 1, and beyond it as long as the photograph is, to a
    ratio of 10 : 1.
    """
    ratio = max(height, width) / min(height, width)
    long = side if ratio <= WHOLE else round(side * min(ratio, LONGEST))
    return (side, long) if width >= height else (long, side)


def starts(length: int, side: int) -> list[int]:
    """Where the squares of `side` begin along a strip of `length`: the first at 0, the last at its end, evenly between.

    Neighbours share at least a quarter of a side.
    """
    if length == side:
        return [0]
    step = side - int(side * OVERLAP)
    count = 1 + -(-(length - side) // step)
    return [round(k * (length - side) / (count - 1)) for k in range(count)]


def join(pieces: list[np.ndarray], begins: list[int], axis: int) -> np.ndarray:
    """Overlapping images uint8 [h, w, 3], put together along an axis; each gives way to the next evenly."""
    if len(pieces) == 1:
        return pieces[0]
    pieces = [piece.swapaxes(0, axis).astype(np.float32) for piece in pieces]
    side = pieces[0].shape[0]
    whole = np.empty((begins[-1] + side, *pieces[0].shape[1:]), np.float32)
    whole[:side] = pieces[0]
    for (before, begin), piece in zip(pairwise(begins), pieces[1:], strict=True):
        shared = before + side - begin
        share = ((np.arange(shared, dtype=np.float32) + 1) / (shared + 1))[:, None, None]
        whole[begin : begin + shared] += share * (piece[:shared] - whole[begin : begin + shared])
        whole[begin + shared : begin + side] = piece[shared:]
    return np.rint(whole).astype(np.uint8).swapaxes(0, axis)
