# SPDX-License-Identifier: Apache-2.0
"""Pictures to look through: all colourings of a photograph side by side, and those of several photographs in one."""

from __future__ import annotations

import os
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from coltran.image import to_eight_bits

GAP = 4  # pixels between the tiles of a sheet
TILE = 384  # pixels of a tile's longer side, at most; but a panorama's tile is
SHORT, LONG = 128, 1280  # so high that its shorter side has SHORT pixels, or its longer side LONG
NAME = 160  # pixels across that a tile has at least, for its name
COLUMNS = 6  # tiles in one row of a sheet
SMALL, LARGE = 12, 14  # pixels of the letters of a tile's name and of a photograph's


def sheet_of(tiles: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Images with their names above them, small, in rows of up to `COLUMNS` on white.

    Args:
        tiles: a name and an image, uint8 [H, W] or uint8 or uint16 [H, W, 3], of the same size each.

    Returns:
        uint8 [h, w, 3].
    """
    height, width = tiles[0][1].shape[:2]
    short, long = min(height, width), max(height, width)
    shrink = min(1.0, max(TILE / long, min(SHORT / short, LONG / long)))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    across = max(size[0], NAME)
    columns = min(len(tiles), COLUMNS, max(1, COLUMNS * TILE // across))
    rows = []
    for first in range(0, len(tiles), columns):
        cells = [_cell(name, image, size, across) for name, image in tiles[first : first + columns]]
        cells += [np.full_like(cells[0], 255)] * (columns - len(cells))
        rows.append(np.concatenate([part for cell in cells for part in (cell, _white(len(cell), GAP))][:-1], 1))
    return np.concatenate([part for row in rows for part in (row, _white(GAP, row.shape[1]))][:-1])


def stack_sheets(sheets: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Sheets with their names above them, one below the other on white: uint8 [H, W, 3]."""
    width = max(sheet.shape[1] for _, sheet in sheets)
    strips = []
    for name, sheet in sheets:
        strips += [_text(name, width, LARGE), _pad(sheet, len(sheet) + GAP, width)]
    return np.concatenate(strips)


def _cell(name: str, image: np.ndarray, size: tuple[int, int], across: int) -> np.ndarray:
    tile = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    tile = to_eight_bits(tile) if tile.dtype == np.uint16 else tile
    tile = tile if tile.ndim == 3 else np.repeat(tile[..., None], 3, axis=-1)
    return np.concatenate((_text(name, across, SMALL), _pad(tile, len(tile), across)))


def _text(text: str, width: int, letters: int) -> np.ndarray:
    """A line of text; what does not fit is cut off."""
    line = Image.new("RGB", (width, letters + 10), "white")
    shown = os.fsencode(text).decode(errors="replace")
    ImageDraw.Draw(line).text((2, 4), shown, "black", ImageFont.load_default(letters))
    return np.asarray(line)


def _pad(image: np.ndarray, height: int, width: int) -> np.ndarray:
    padded = _white(height, width)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded


def _white(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8)
