# SPDX-License-Identifier: Apache-2.0
"""Photographs made to look like old prints: faded or dark, and their gray version soft, grainy or compressed."""

from __future__ import annotations

import cv2
import numpy as np

SHADOWS, LIGHTS, DARK = (0, 80), (150, 255), (90, 200)  # levels that black and white become
BLUR = (0.4, 1.5)  # standard deviation, pixels
GRAIN = (2.0, 10.0)  # standard deviation, levels
QUALITY = (40, 90)  # of JPEG


def random_levels(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A print that has faded, or half as often a dark one: uint8 [H, W, 3] with its levels squeezed, colours too."""
    if rng.random() < 2 / 3:
        black, white = rng.uniform(*SHADOWS), rng.uniform(*LIGHTS)
    else:
        black, white = 0.0, rng.uniform(*DARK)
    levels = np.rint(black + np.arange(256) * (white - black) / 255).astype(np.uint8)
    return levels[rgb]


def degrade_gray(gray: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Blur, grain and JPEG, each with the probability `share`, on uint8 [H, W]."""
    if rng.random() < share:
        gray = cv2.GaussianBlur(gray, (0, 0), rng.uniform(*BLUR))
    if rng.random() < share:
        grain = rng.standard_normal(gray.shape, np.float32) * np.float32(rng.uniform(*GRAIN))
        gray = np.rint(gray + grain).clip(0, 255).astype(np.uint8)
    if rng.random() < share:
        _, encoded = cv2.imencode(".jpg", gray, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(*QUALITY))])
        gray = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE))
    return gray
