# SPDX-License-Identifier: Apache-2.0
"""Colours of a small image, on the luminance of a photograph of any size.

    Y = 0.299 R + 0.587 G + 0.114 B        (luma of ITU-R BT.601; its weights are those of the networks' grayscale)
    C = small - Y(small)                   (chroma: three differences, of which the weighted sum is 0)
    photograph = Y + t C',   C' = C enlarged,   t in [0, 1] the largest that leaves no channel outside 0 .. 255

Whatever t is, the luma of the result is Y: a colour that does not exist at that luminance becomes paler, not darker.
docs/photographs.md has the measurements behind the choice of the space and of the enlargement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
TINY = np.float32(1e-3)  # keeps black and white from dividing by zero
FAR = 32  # levels; at 256 x 256 one true colour in two thousand is as far from those around it
STRIP = 1 << 16  # pixels that are worked on at once, so that memory does not grow with the photograph


def luminance(photo: np.ndarray) -> np.ndarray:
    """The luma of colours, [..., 3] in 0..255, or of gray uint16 [H, W] -> float32 [...] in 0..255; not rounded."""
    if photo.dtype == np.uint16:
        return photo / np.float32(257)
    luma = np.empty(photo.shape[:-1], np.float32)
    rows = max(1, STRIP // max(1, math.prod(luma.shape[1:])))
    for top in range(0, len(photo), rows):
        luma[top : top + rows] = photo[top : top + rows] @ LUMA
    return luma


def without_specks(drawn: np.ndarray) -> np.ndarray:
    """Colours in which a pixel whose chroma is far from that around it has the chroma around it.

    An upsampler gives each channel's value by itself, so now and then one of them is far off.

    Args:
        drawn: uint8 [h, w, 3], by the spatial upsampler: at 64 x 64 true colours vary as much.

    Returns:
        uint8 [h, w, 3]: where one of the three differences is more than `FAR` levels from the median of 5 x 5 pixels,
        those medians on the pixel's luma; elsewhere as drawn.
    """
    luma = (drawn @ LUMA)[..., None]
    chroma = drawn - luma
    around = cv2.medianBlur(chroma, 5)
    far = np.abs(chroma - around).max(axis=-1, keepdims=True) > FAR
    return np.where(far, np.clip(np.rint(luma + around), 0, 255).astype(np.uint8), drawn)


def for_photographs(drawn: Sequence[np.ndarray], stage: str) -> list[np.ndarray]:
    """Colours that the networks drew up to a stage, uint8 [h, w, 3] each, as they are put on whole photographs."""
    return [without_specks(image) for image in drawn] if stage == "final" else list(drawn)


def recolor(
    luma: np.ndarray, small: np.ndarray, dtype: type[np.unsignedinteger] = np.uint8, scale: float = 1.0
) -> np.ndarray:
    """A photograph with its own luma and the colours of a small image that is stretched over it.

    Args:
        luma: float32 [H, W] in 0..255.
        small: uint8 [h, w, 3], of any size and shape.
        dtype: of the result, uint8 or uint16, of which each level is 257 times as fine.
        scale: what the chroma is multiplied by (`coltran.photo.levels`).

    Returns:
        `dtype` [H, W, 3], whose luma is within half a level of `luma` everywhere.
    """
    most = np.iinfo(dtype).max
    height, width = luma.shape
    chroma = np.float32(scale) * (small - (small @ LUMA)[..., None])
    wide = _resize(chroma, chroma.shape[0], width).transpose(0, 2, 1).reshape(chroma.shape[0], -1)  # [h, 3 W]
    # Rows are enlarged strip by strip: each is a weighted sum of the small image's, and these are the weights.
    weights = _resize(np.eye(chroma.shape[0], dtype=np.float32), height, chroma.shape[0])
    rows = max(1, STRIP // width)
    result = np.empty((height, width, 3), dtype)
    for top in range(0, height, rows):
        y, part = luma[top : top + rows], weights[top : top + rows]
        used = np.flatnonzero(part.any(axis=0))  # a few neighbouring rows of the small image
        band = slice(used[0], used[-1] + 1)
        colours = (np.ascontiguousarray(part[:, band]) @ wide[band]).reshape(-1, 3, width)
        red, green, blue = colours.transpose(1, 0, 2)
        # How much of the chroma there is room for: the largest difference has to stay below white, the smallest
        # above black.
        room, above = y + TINY, 255 + TINY - y
        room /= np.maximum(room, -np.minimum(np.minimum(red, green), blue))
        above /= np.maximum(above, np.maximum(np.maximum(red, green), blue))
        colours *= np.minimum(room, above, out=room)[:, None]
        colours += y[:, None]
        if most > 255:
            colours *= most / 255
        np.clip(np.rint(colours, out=colours), 0, most, out=colours)
        cv2.merge([plane.astype(dtype) for plane in (red, green, blue)], result[top : top + rows])
    return result


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """[h, w] or [h, w, c] at another size: the mean of the area where it shrinks, cubic elsewhere."""
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
