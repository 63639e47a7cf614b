# SPDX-License-Identifier: Apache-2.0
"""Which of many colourings to look at: those that differ most from the first and from each other."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from coltran.image import to_eight_bits
from coltran.photo.lab import to_ab

SIDE = 64  # pixels a side at which colourings are compared


def differences(images: Sequence[np.ndarray]) -> np.ndarray:
    """How much colourings of one photograph, uint8 or uint16 [H, W, 3] each, differ: float32 [N, N].

    The mean over the pixels of the distance in CIELAB's a and b, at 64 x 64 pixels.
    """
    small = np.stack([cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for image in images])
    ab = to_ab(to_eight_bits(small) if small.dtype == np.uint16 else small)
    return np.stack([np.linalg.norm(ab - one, axis=-1).mean((1, 2)) for one in ab])


def choose_diverse(distances: np.ndarray, first: int, count: int) -> list[int]:
    """`first` and then `count` others, each the one whose nearest among those before it is farthest away (greedy).

    Args:
        distances: [N, N].
        count: below N.
    """
    chosen = [first]
    while len(chosen) <= count:
        nearest = distances[chosen].min(0)
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    return chosen
