# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from coltran.photo.sheets import COLUMNS, GAP, LARGE, LONG, NAME, SHORT, SMALL, TILE, sheet_of, stack_sheets

LINE = SMALL + 10  # pixels of a tile's name


def test_the_tiles_stand_in_rows_each_under_its_name():
    gray = [("gray", np.full((40, 200), 99, np.uint8))]
    tiles = gray + [(f"a-{k}.jpg", np.full((40, 200, 3), 10 * k, np.uint8)) for k in range(7)]
    sheet = sheet_of(tiles)
    down, across = LINE + 40 + GAP, 200 + GAP
    assert sheet.shape == (2 * down - GAP, COLUMNS * across - GAP, 3)
    assert sheet[LINE::down, ::across, 0].tolist() == [[99, 0, 10, 20, 30, 40], [50, 60, 255, 255, 255, 255]]
    for k in range(8):
        top, left = k // COLUMNS * down, k % COLUMNS * across
        assert (sheet[top : top + LINE, left : left + 200] < 128).any()
    assert (sheet[:, 200:across] == 255).all()


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((300, 300), (300, 300)),
        ((3000, 4000), (TILE * 3 // 4, TILE)),
        ((1000, 5000), (SHORT, 5 * SHORT)),
        ((5000, 1000), (5 * SHORT, SHORT)),
        ((100, 50000), (round(LONG / 500), LONG)),
        ((8, 6), (8, 6)),
    ],
)
def test_every_shape_is_small_but_readable(size, shown):
    sheet = sheet_of([("name", np.zeros((*size, 3), np.uint8))])
    assert sheet.shape == (LINE + shown[0], max(shown[1], NAME), 3)
    assert (sheet[LINE:, : shown[1]] == 0).all()


def test_tiles_of_a_panorama_stand_one_above_the_other():
    assert sheet_of([(str(k), np.zeros((200, 2000, 3), np.uint8)) for k in range(3)]).shape[1] == LONG


def test_sixteen_bits_are_shown_with_eight():
    tiles = [("gray", np.full((5, 5), 99, np.uint8)), ("a", np.full((5, 5, 3), 257 * 70, np.uint16))]
    assert sheet_of(tiles)[LINE, :: NAME + GAP, 0].tolist() == [99, 70]


def test_names_that_are_no_text_are_shown_as_far_as_they_are():
    assert sheet_of([("\udcff.png", np.zeros((5, 5, 3), np.uint8))]).shape == (LINE + 5, NAME, 3)


def test_sheets_are_stacked_under_their_names():
    sheets = [("a", np.zeros((7, 30, 3), np.uint8)), ("b", np.zeros((9, 50, 3), np.uint8))]
    stacked = stack_sheets(sheets)
    line = LARGE + 10
    assert stacked.shape == (2 * line + 7 + 9 + 2 * GAP, 50, 3)
    assert (stacked[line : line + 7, :30] == 0).all()
    assert (stacked[line : line + 7, 30:] == 255).all()
