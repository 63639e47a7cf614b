# SPDX-License-Identifier: Apache-2.0
"""A frame as its colours are carried: small, in gray, and with its contrast evened out for finding motion.

Colours are carried as chroma, C = RGB - Y, whose luma is 0, with the luma that they were drawn at:

    colors [h, w, 4] = (C_red, C_green, C_blue, Y_drawn)

Whatever luminance a frame has of its own, C is put on that. Where the frame is much darker there than Y_drawn, as in a
fade, a colour as strong would glow, so C follows it down (`as_bright_as`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

SIDE = 256  # pixels of the shorter side, as fine as the networks' colours are
LONGEST = 3.0  # the longest shape of a canvas, longer side to shorter
AROUND = 12.0  # pixels, the radius within which contrast is evened out
SCRATCH = 5  # pixels, of which a scratch is less than half as wide
NOISE = 6.0  # levels: contrast below it counts as noise and is not raised to that of edges
BLANK = 2.0  # levels: a frame whose contrast is below it shows nothing
DARKER = 0.7  # of the luma that a colour was drawn at: below it, it becomes weaker with the luma


@dataclass(frozen=True)
class Canvas:
    """One frame."""

    gray: np.ndarray  # uint8 [h, w]

    @cached_property
    def flat(self) -> np.ndarray:
        """The gray with its local mean and contrast evened out and without scratches and dust: uint8 [h, w].

        So flicker and fades change it little.
        """
        gray = cv2.medianBlur(self.gray, SCRATCH).astype(np.float32)
        gray -= blur(gray, AROUND)
        gray *= 48 / np.sqrt(np.maximum(0, blur(gray * gray, AROUND)) + NOISE**2)
        return np.clip(gray + 128, 0, 255).astype(np.uint8)

    @cached_property
    def texture(self) -> np.ndarray:
        """How much there is to hold on to around a pixel, levels: float32 [h, w]."""
        gray = self.gray.astype(np.float32)
        return np.sqrt(np.maximum(0, blur((gray - blur(gray, 3)) ** 2, 3)))

    @cached_property
    def soft(self) -> np.ndarray:
        """`flat` and the gray, a little blurred, to be compared: float32 [h, w, 2]."""
        return blur(np.dstack([self.flat, self.gray]).astype(np.float32), 1)

    @cached_property
    def thumbnail(self) -> np.ndarray:
        """`flat` in 48 x 48, its mean 0 and its length 1: float32 [48 * 48]."""
        small = cv2.resize(self.flat, (48, 48), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
        small -= small.mean()
        return small / max(float(np.linalg.norm(small)), 1e-6)

    @cached_property
    def histogram(self) -> np.ndarray:
        """Shares of the gray levels, sixteen at a time: float32 [16]."""
        return (np.bincount(self.gray.ravel() >> 4, minlength=16) / self.gray.size).astype(np.float32)

    @cached_property
    def contrast(self) -> float:
        """The standard deviation of the gray, levels."""
        return float(self.gray.std())

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing to see."""
        return self.contrast < BLANK


def canvas_size(height: int, width: int, aspect: float = 1.0) -> tuple[int, int]:
    """The height and width of the canvas for frames of height x width pixels, each `aspect` times as wide as high."""
    shown = width * aspect
    ratio = min(max(shown, height) / min(shown, height), LONGEST)
    long = 8 * round(SIDE * ratio / 8)
    return (SIDE, long) if shown >= height else (long, SIDE)


def canvas_of(luma: np.ndarray, size: tuple[int, int], black: float = 0, white: float = 255) -> Canvas:
    """The canvas of a frame's luma, [H, W] of any type, between those values of black and white."""
    shrinks = luma.shape[0] >= size[0] and luma.shape[1] >= size[1]
    small = cv2.resize(luma, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    if (black, white) != (0, 255) or small.dtype != np.uint8:
        small = np.clip(np.rint((small.astype(np.float32) - black) * (255 / (white - black))), 0, 255).astype(np.uint8)
    return Canvas(small)


def as_bright_as(canvas: Canvas, colors: np.ndarray) -> np.ndarray:
    """The chroma of colors [h, w, 4] as it looks on a frame: float32 [h, w, 3]."""
    luma = blur(canvas.gray.astype(np.float32), 4)
    share = np.minimum(1, luma / (DARKER * np.maximum(colors[..., 3], 1)))
    return colors[..., :3] * share[..., None]


def blur(image: np.ndarray, radius: float) -> np.ndarray:
    """The mean over a square around each pixel, and once more of that: close to a Gaussian of that deviation."""
    side = 2 * max(1, round(radius)) + 1
    for _ in range(2):
        image = cv2.blur(image, (side, side), borderType=cv2.BORDER_REFLECT)
    return image
