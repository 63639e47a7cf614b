# SPDX-License-Identifier: Apache-2.0
"""Where a film's shots begin, and which frames are flashes.

Two frames belong together when their evened-out thumbnails agree, or else when the flow between them leads there and
back for enough of the pixels; where that is in doubt, their histograms decide. A frame that does not belong to the one
before it begins a shot, unless one of the next few belongs to the one before: then what is between is a flash, a
splice or a lost frame of the same shot. A frame that shows nothing, as between two fades, ends a shot in any case.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

import numpy as np

from coltran.film.canvas import Canvas
from coltran.film.flow import KNOWN, match, shifted

T = TypeVar("T")

ALIKE = 0.75  # correlation of thumbnails from which frames belong together without asking further
SURE, NONE = 0.45, 0.2  # shares of the texture found again: from the first on together, below the second apart
DIM, DIM_ALIKE = 5.0, 0.4  # levels of contrast, below which only thumbnails are asked, and to agree so far
HISTOGRAMS = 0.35  # between them: apart if so much of the histograms differs
FLASH = 4  # frames that a flash may last


@dataclass(frozen=True)
class Frame(Generic[T]):
    """One frame of a film."""

    item: T  # whatever the caller has of it
    canvas: Canvas
    shot: int  # 0 the film's first
    number: int  # in its shot, 0 the first
    flash: bool = False  # shows little of that shot


def belong_together(one: Canvas, other: Canvas) -> bool:
    """Whether two canvases show the same shot."""
    if one.is_blank or other.is_blank:
        return one.is_blank and other.is_blank
    alike = float(one.thumbnail @ other.thumbnail)
    if alike > ALIKE or min(one.contrast, other.contrast) < DIM:
        return alike > DIM_ALIKE
    start = shifted(one, other)
    sure = match(one, other, start.there, start.back).sure > KNOWN
    share = float((sure * other.texture).sum() / max(other.texture.sum(), 1e-6))
    if NONE <= share < SURE:
        return float(np.abs(one.histogram - other.histogram).sum()) / 2 < HISTOGRAMS
    return share >= SURE


def find_shots(
    frames: Iterable[tuple[T, Canvas]], before: Canvas | None = None, shot: int = -1, number: int = -1
) -> Iterator[Frame[T]]:
    """The frames in order, with the shots that they are in; reads `FLASH` frames ahead where something changes.

    Args:
        frames: what the caller has of each, and its canvas.
        before, shot, number: the frame before the first, where that is not the film's first.
    """
    source = iter(frames)
    ahead: deque[tuple[T, Canvas]] = deque()
    while True:
        ahead.extend(islice(source, max(0, 1 - len(ahead))))
        if not ahead:
            return
        lost = 0  # frames that do not belong to the one before, while a later one does
        if before is not None and not belong_together(before, ahead[0][1]):
            ahead.extend(islice(source, FLASH + 1 - len(ahead)))
            later = () if before.is_blank else enumerate(ahead)
            lost = next((n for n, (_, canvas) in later if n and belong_together(before, canvas)), 0)
        if before is None or (not lost and not belong_together(before, ahead[0][1])):
            shot, number = shot + 1, -1
        for n in range(lost + 1):
            item, before = ahead.popleft()
            number += 1
            yield Frame(item, before, shot, number, flash=n < lost)
