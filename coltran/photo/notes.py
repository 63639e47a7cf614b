# SPDX-License-Identifier: Apache-2.0
"""What a person should know of a photograph before they look at its colours: each the rest of a sentence about it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from coltran.photo.decoding import pages_of

BILEVEL = 0.98  # of the pixels that are black or white, in a scan of one bit
NEAR = 8  # levels from black and from white that count as such: a JPEG blurs them
ALSO = 0.02  # of them that are the rarer of the two
BASE = (
    95  # percent of the pixels that are darker than the base of a film, which is the lightest there is in a scan of it
)
MASKED = (
    1.25  # red to green, and green to blue, of the base of a colour negative, at least: paper is 1.1 when it is old
)


def notes_on_pages(image: Image.Image) -> Iterator[str]:
    """Of an image that is open: that there are several pages or frames, of which one is coloured."""
    if image.format in ("MPO", None) or image.tell() != 0 or getattr(image, "n_frames", 1) < 2:
        return
    if (count := len(pages_of(image))) > 1:
        kind = "frames" if image.format in ("GIF", "PNG", "WEBP", "AVIF") else "pages"
        yield f"has {count} {kind}, and the first is coloured: --pages all colours each"


def notes_on(pixels: np.ndarray) -> Iterator[str]:
    """Of pixels, uint8 [H, W, 3] or uint16 [H, W]."""
    gray = pixels[..., 1] if pixels.ndim == 3 else (pixels >> 8).astype(np.uint8)
    dark, light = float((gray < NEAR).mean()), float((gray > 255 - NEAR).mean())
    if dark + light > BILEVEL and min(dark, light) > ALSO:
        yield "is a scan of one bit, black or white, which has hardly room for colours: scan it in grays"
    if pixels.ndim == 3 and _looks_negative(pixels):
        yield "looks like a colour negative, and is coloured as it is: turn it into a positive first"


def _looks_negative(pixels: np.ndarray) -> bool:
    """Whether the lightest that there is has the orange of a colour negative's base, everywhere."""
    small = pixels[:: max(1, len(pixels) // 128), :: max(1, pixels.shape[1] // 128)].reshape(-1, 3).astype(np.float32)
    light = small[small.mean(1) >= np.percentile(small.mean(1), BASE)]
    red, green, blue = np.maximum(light, 1).T
    orange = (red > MASKED * green) & (green > MASKED * blue)
    return bool(orange.mean() > 0.98) and float(np.median(red)) > 100
