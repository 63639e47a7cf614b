# SPDX-License-Identifier: Apache-2.0
"""Maps laid over a photograph: the coarse colours as far as they are drawn, and numbers as warmth."""

from __future__ import annotations

import cv2
import numpy as np

from coltran.image import labels_to_colors
from coltran.photo.recolor import luminance, recolor

LONGEST = 512  # pixels of a map's longer side


def shrink(photo: np.ndarray, longest: int | None) -> np.ndarray:
    """A photograph uint8 [H, W, 3] whose longer side has at most `longest` pixels; as it is where that is None."""
    scale = 1.0 if longest is None else longest / max(photo.shape[:2])
    if scale >= 1:
        return photo
    size = (max(1, round(photo.shape[1] * scale)), max(1, round(photo.shape[0] * scale)))
    return cv2.resize(photo, size, interpolation=cv2.INTER_AREA)


def paint(photo: np.ndarray, labels: np.ndarray, longest: int | None = LONGEST) -> np.ndarray:
    """A photograph, at most `longest` a side, with the colours of labels [h, w]; gray where they are -1: uint8."""
    colours = np.where((labels >= 0)[..., None], labels_to_colors(labels), np.uint8(0))
    return recolor(luminance(shrink(photo, longest)), colours)


def heat(photo: np.ndarray, values: np.ndarray, highest: float, longest: int | None = LONGEST) -> np.ndarray:
    """Values [h, w] as colours, dark violet for 0 to bright yellow for `highest`, over the photograph: uint8."""
    small = shrink(photo, longest)
    levels = (np.clip(values / highest, 0, 1) * 255).astype(np.uint8)
    wide = cv2.resize(levels, (small.shape[1], small.shape[0]), interpolation=cv2.INTER_LINEAR)
    colours = cv2.cvtColor(cv2.applyColorMap(wide, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    blended = 0.3 * luminance(small)[..., None] + 0.7 * colours.astype(np.float32)
    return np.rint(blended).astype(np.uint8)
