# SPDX-License-Identifier: Apache-2.0
"""Faded prints: which levels a photograph uses, and the straight line that brings them to what the networks know.

    seen = offset + gain * luminance        (what the networks see; the identity for a photograph of full range)
    C'   = C min(1, max(1 / gain, (1.2 / gain)^2))   (the chroma that goes back onto the photograph's own luminance)

A print that has lost its blacks and whites has lost its chroma by the same factor, 1 / gain, as all three channels were
brought together. Up to 1.2 a gain may be the photograph's own; from 1.44 on it is taken for fading. The networks were
trained on photographs of full range, and take a narrow one for mist or for a single tint.
docs/photographs.md has what it gains.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from coltran.photo.recolor import LUMA

BLACK, WHITE = 21.0, 224.0  # levels that half of all photographs reach by the measure below: 285 of `wide-valid`
SIDE, TILES = 192, 8  # a photograph is measured at SIDE pixels a side, in TILES x TILES tiles
SMALL = 64  # pixels a side below which it is measured as one tile
DARK = 1.0  # percent of a tile's pixels that are darker than its black; as many are lighter than its white
FEW = 15.0  # percent of the tiles that may be darker or lighter still: a stamp, a caption, what is left of a border
LEAST = 8.0  # levels between black and white; in fewer there is nothing but noise
STEEPEST = 6.0  # the gain of what the networks see
GENTLE = 3.0  # the gain of what a person sees
SLACK = 1.2  # the gain up to which a photograph may have faded not at all: one in four that has not needs as much


@dataclass(frozen=True)
class Levels:
    """A straight line for luminances of 0 .. 255, `offset + gain * luminance`; the identity by default."""

    gain: float = 1.0
    offset: float = 0.0

    @property
    def is_identity(self) -> bool:
        return self == Levels()

    @property
    def chroma(self) -> float:
        """What the chroma that the networks give is multiplied by, on the luminance that the photograph has."""
        return min(1.0, max(1 / self.gain, (SLACK / self.gain) ** 2))

    def stretch(self, luminance: np.ndarray) -> np.ndarray:
        """float32 [...] in 0..255, not rounded, for luminances of 0..255."""
        return np.clip(np.float32(self.offset) + np.float32(self.gain) * luminance, 0, 255).astype(np.float32)

    def stretch_bytes(self, values: np.ndarray) -> np.ndarray:
        """uint8 [...] -> uint8 [...], the same."""
        return (
            values
            if self.is_identity
            else np.rint(self.stretch(np.arange(256, dtype=np.uint8))).astype(np.uint8)[values]
        )

    def stretch_colors(self, colors: np.ndarray) -> np.ndarray:
        """uint8 [..., 3] of the photograph -> as the networks would have given them: uint8; `squeeze_colors` undone."""
        if self.is_identity:
            return colors
        luma = colors @ LUMA
        stretched = self.stretch(luma)[..., None] + (colors - luma[..., None]) / np.float32(self.chroma)
        return np.rint(np.clip(stretched, 0, 255)).astype(np.uint8)

    def squeeze_colors(self, colors: np.ndarray) -> np.ndarray:
        """uint8 [..., 3] of what the networks give -> as the photograph gets them: uint8."""
        if self.is_identity:
            return colors
        luma = (colors @ LUMA)[..., None]
        squeezed = (luma - self.offset) / self.gain + (colors - luma) * np.float32(self.chroma)
        return np.rint(np.clip(squeezed, 0, 255)).astype(np.uint8)

    def gentle(self) -> Levels:
        """The line for what a person sees: no steeper than `GENTLE`, about the same middle."""
        if self.gain <= GENTLE:
            return self
        middle = (BLACK + WHITE) / 2
        return Levels(GENTLE, middle - GENTLE * (middle - self.offset) / self.gain)


def find_levels(gray: np.ndarray) -> Levels:
    """The line that brings a photograph's black and white to those of most photographs.

    An end that reaches them already stays where it is, so a photograph of full range gives the identity.

    Args:
        gray: uint8 or float32 [H, W], luminances of 0..255, without a border.
    """
    black, white = find_range(gray)
    if white - black < LEAST:
        return Levels()
    low, high = min(black, BLACK), max(white, WHITE)
    gain = (high - low) / (white - black)
    if gain > STEEPEST:
        gain, low = STEEPEST, (low + high - STEEPEST * (white - black)) / 2
    return Levels(gain, low - gain * black) if gain > 1 else Levels()


def find_range(gray: np.ndarray) -> tuple[float, float]:
    """Black and white of a photograph, [H, W] in 0..255, robust to specks, stamps, captions and bits of a border.

    Each of 8 x 8 tiles has a black and a white, that few of its pixels are beyond; beyond the photograph's own are the
    blacks or whites of few tiles.
    """
    if min(gray.shape) < SMALL:
        black, white = np.percentile(gray, (DARK, 100 - DARK))
        return float(black), float(white)
    height, width = (min(SIDE, side) // TILES for side in gray.shape)  # of a tile
    small = cv2.resize(gray.astype(np.float32), (TILES * width, TILES * height), interpolation=cv2.INTER_AREA)
    tiles = small.reshape(TILES, height, TILES, width).swapaxes(1, 2).reshape(TILES * TILES, -1)
    blacks, whites = np.percentile(tiles, (DARK, 100 - DARK), axis=1)
    return float(np.percentile(blacks, FEW)), float(np.percentile(whites, 100 - FEW))
