# SPDX-License-Identifier: Apache-2.0
"""Colours as the eye tells them apart: a and b of CIELAB, without the lightness."""

from __future__ import annotations

import cv2
import numpy as np


def to_ab(rgb: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] in sRGB -> float32 [..., 2], a (green to red) and b (blue to yellow), about -110 .. 110."""
    flat = rgb.reshape(1, -1, 3).astype(np.float32) / 255
    return cv2.cvtColor(flat, cv2.COLOR_RGB2LAB)[..., 1:].reshape(*rgb.shape[:-1], 2)
