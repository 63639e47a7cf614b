# SPDX-License-Identifier: Apache-2.0
"""Chroma as films have it: planes of U and V, half as wide and high, beside the frame's own luma.

U = (B - Y) / (2 (1 - k_B)),   V = (R - Y) / (2 (1 - k_R)),   k the weights of the film's own luma
"""

from __future__ import annotations

import cv2
import numpy as np

# Weights of red and blue in the luma, by FFmpeg's number of the matrix (ITU-T H.273).
WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}


def black_and_white(bits: int, full_range: bool) -> tuple[int, int]:
    """The coded luma of black and of white."""
    scale = 1 << (bits - 8)
    return (0, 256 * scale - 1) if full_range else (16 * scale, 235 * scale)


def chroma_planes(
    luma: np.ndarray, chroma: np.ndarray, *, bits: int, full_range: bool, matrix: int
) -> tuple[np.ndarray, np.ndarray]:
    """U and V of a frame, each half as wide and high.

    As in `coltran.photo.recolor`, a colour that does not exist at its luma becomes paler.

    Args:
        luma: [H, W] as coded in so many bits, with or without room below black and above white.
        chroma: float32 [h, w, 3], RGB - Y in levels, of any size.
        matrix: one of `WEIGHTS`.

    Returns:
        Two of [H / 2, W / 2], rounded up, coded as the luma is.
    """
    size = ((luma.shape[1] + 1) // 2, (luma.shape[0] + 1) // 2)
    black, white = black_and_white(bits, full_range)
    y = cv2.resize(luma, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    y = np.clip((y - black) * (255 / (white - black)), 0, 255)
    red_weight, blue_weight = WEIGHTS[matrix]
    red, green, blue = cv2.split(cv2.resize(chroma.astype(np.float32), size, interpolation=cv2.INTER_CUBIC))
    own = red_weight * red + (1 - red_weight - blue_weight) * green + blue_weight * blue
    red, green, blue = red - own, green - own, blue - own
    tiny = np.float32(1e-3)
    room = (y + tiny) / np.maximum(y + tiny, -np.minimum(np.minimum(red, green), blue))
    above = (255 + tiny - y) / np.maximum(255 + tiny - y, np.maximum(np.maximum(red, green), blue))
    share = np.minimum(room, above)
    scale = 1 << (bits - 8)
    range_ = (256 * scale - 1 if full_range else 224 * scale) / 255
    kind = np.uint8 if bits == 8 else np.uint16
    planes = (blue / (2 * (1 - blue_weight)), red / (2 * (1 - red_weight)))
    u, v = (np.clip(np.rint(share * p * range_ + 128 * scale), 0, 256 * scale - 1).astype(kind) for p in planes)
    return u, v
