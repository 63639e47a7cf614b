# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np

from coltran.photo.sheets import COLUMNS, GAP, TILE, sheet_of


def test_the_sheet_shows_the_gray_and_then_the_samples_in_rows():
    images = [np.full((2, 3, 3), 10 * k, np.uint8) for k in range(7)]
    sheet = sheet_of(np.full((2, 3), 99, np.uint8), images)
    down, across, columns = 2 + GAP, 3 + GAP, COLUMNS
    assert sheet.shape == (2 * down - GAP, columns * across - GAP, 3)
    assert sheet[::down, ::across, 0].tolist() == [[99, 0, 10, 20, 30, 40], [50, 60, 255, 255, 255, 255]]
    assert (sheet[:, 3:across] == 255).all()


def test_large_photographs_are_small_on_the_sheet():
    sheet = sheet_of(np.zeros((900, 3000), np.uint8), [np.zeros((900, 3000, 3), np.uint8)])
    assert sheet.shape == (115, 2 * TILE + GAP, 3)
