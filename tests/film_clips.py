# SPDX-License-Identifier: Apache-2.0
"""Clips whose motion is known, and a pipeline that paints in place of drawing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from coltran.film.film import Film
from coltran.photo.recolor import luminance

HEIGHT, WIDTH = 90, 120
HUES = [(60, -20, -45), (-45, -10, 130), (20, 20, -170), (-60, 40, -50), (50, -40, 70)]  # RGB - Y, to a level


def texture(seed: int, height: int = 2 * HEIGHT, width: int = 4 * WIDTH) -> np.ndarray:
    """Something with detail of many sizes: uint8 [height, width]."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width), np.float32)
    for size in (2, 4, 8, 24):
        noise = rng.standard_normal((height // size + 2, width // size + 2)).astype(np.float32)
        total += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) * size**0.5
    return np.clip(128 + 30 * total / total.std(), 30, 225).astype(np.uint8)


def pan(world: np.ndarray, xs: Iterable[int], y: int = 20) -> list[np.ndarray]:
    """A camera that looks at a part of a texture from x on."""
    return [world[y : y + HEIGHT, x : x + WIDTH] for x in xs]


def chroma(rgb: np.ndarray) -> np.ndarray:
    """RGB - Y: float32 [H, W, 3]."""
    return rgb - luminance(rgb)[..., None]


def hue(number: int) -> np.ndarray:
    """The chroma of the n-th drawing of a `Painter`, small enough to exist at any gray of `texture`."""
    found = np.array(HUES[number % len(HUES)], np.float32) / 8
    return found - found @ np.array([0.299, 0.587, 0.114], np.float32)


class Painter:
    """In place of a pipeline: its n-th drawing is all of one hue, or what a function of the gray says."""

    low, high = 16, 64

    def __init__(self, paint: Callable[[np.ndarray, int], np.ndarray] | None = None) -> None:
        self.paint = paint or (lambda gray, number: np.broadcast_to(hue(number), (*gray.shape, 3)))
        self.grays: list[np.ndarray] = []
        self.hints: list[list[Any]] = []

    def __call__(self, gray: np.ndarray, *, hints: list[Any], **_: object) -> Any:
        painted = gray[..., None] + self.paint(gray, len(self.grays))
        self.grays.append(gray)
        self.hints.append(hints)
        return SimpleNamespace(images=[np.clip(np.rint(painted), 0, 255).astype(np.uint8)])


def colored(painter: Painter, frames: Iterable[np.ndarray], **options: Any) -> list[np.ndarray]:
    """The chroma of each frame after `Film`."""
    film = Film(painter, **options)  # type: ignore[arg-type]
    return [chroma(frame) for frame in film(frames)]
