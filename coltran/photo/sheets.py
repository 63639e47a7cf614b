# SPDX-License-Identifier: Apache-2.0
"""Pictures to look through: all colourings of a photograph side by side, and those of several photographs in one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP = 4  # pixels between the tiles of a sheet
TILE = 384  # pixels of a tile's longer side, at most
COLUMNS = 6  # tiles in one row of a sheet


def sheet_of(gray: np.ndarray, images: Sequence[np.ndarray]) -> np.ndarray:
    """The gray photograph and then all colourings, small, in rows of `COLUMNS` tiles on white.

    Args:
        gray: uint8 [H, W].
        images: uint8 [H, W, 3] each.

    Returns:
        uint8 [h, w, 3].
    """
    height, width = gray.shape
    shrink = min(1.0, TILE / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    whole = [np.repeat(gray[..., None], 3, axis=-1), *images]
    tiles = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in whole]
    columns = min(len(tiles), COLUMNS)
    rows = math.ceil(len(tiles) / columns)
    step = np.add(size, GAP)
    sheet = np.full((rows * step[1] - GAP, columns * step[0] - GAP, 3), 255, np.uint8)
    for k, tile in enumerate(tiles):
        top, left = k // columns * step[1], k % columns * step[0]
        sheet[top : top + size[1], left : left + size[0]] = tile
    return sheet


def stack_sheets(sheets: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Sheets with their names above them, one below the other on white: uint8 [H, W, 3]."""
    width = max(sheet.shape[1] for _, sheet in sheets)
    strips = []
    for name, sheet in sheets:
        title = Image.new("RGB", (width, 24), "white")
        ImageDraw.Draw(title).text((2, 4), name, "black", ImageFont.load_default(14))
        padded = np.full((sheet.shape[0] + GAP, width, 3), 255, np.uint8)
        padded[: sheet.shape[0], : sheet.shape[1]] = sheet
        strips += [np.asarray(title), padded]
    return np.concatenate(strips)
