# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from coltran.photo.levels import BLACK, GENTLE, STEEPEST, WHITE, Levels, find_levels, find_range
from tests.tiny import scene


@pytest.mark.parametrize("shape", [(200, 300), (301, 97), (20, 20), (7, 90), (1, 1)])
def test_a_photograph_of_full_range_is_left_as_it_is(shape):
    gray = scene(*shape)
    assert find_levels(gray).is_identity
    assert find_levels(gray.astype(np.float32)).is_identity


@pytest.mark.parametrize("levels", [(40, 215), (60, 195), (90, 170), (0, 120), (150, 255)])
@pytest.mark.parametrize("shape", [(200, 300), (40, 50)])
def test_a_faded_photograph_is_brought_to_the_range_that_photographs_have(levels, shape):
    low, high = levels
    faded = np.rint(low + scene(*shape) * ((high - low) / 255)).astype(np.uint8)
    black, white = find_range(find_levels(faded).stretch(faded))
    assert abs(black - min(BLACK, low)) < 2 or black <= BLACK
    assert white >= WHITE - 2
    assert find_levels(faded).gain > 1.1


def test_what_is_squeezed_is_what_was_stretched():
    levels = Levels(1.7, -50.0)
    values = np.arange(40, 170, dtype=np.uint8)
    np.testing.assert_array_equal(levels.stretch_bytes(values), np.rint(levels.stretch(values)))
    rng = np.random.default_rng(0)
    colors = (rng.integers(80, 120, (90, 1)) + rng.integers(-9, 10, (90, 3))).astype(np.uint8)
    stretched = levels.stretch_colors(colors)
    assert np.abs(levels.squeeze_colors(stretched).astype(int) - colors).max() <= 1
    chroma = [np.abs(one - one.mean(-1, keepdims=True)).mean() for one in (colors, stretched)]
    assert chroma[0] / chroma[1] == pytest.approx(levels.chroma, rel=0.1)


def _faded() -> np.ndarray:
    return np.rint(60 + scene(240, 320) * (135 / 255)).astype(np.uint8)


def _with_stamp(gray: np.ndarray) -> None:
    gray[-60:, -70:] = 0  # a twentieth of it


def _with_caption(gray: np.ndarray) -> None:
    gray[-24:] = 255
    gray[-16:-8, 40:200:3] = 0


def _with_specks(gray: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    for level in (0, 255):
        gray[rng.integers(0, 240, 300), rng.integers(0, 320, 300)] = level


def _with_the_rest_of_a_border(gray: np.ndarray) -> None:
    gray[:, :6] = 255


@pytest.mark.parametrize("spoil", [_with_stamp, _with_caption, _with_specks, _with_the_rest_of_a_border])
def test_what_is_no_part_of_the_picture_does_not_count(spoil):
    gray = _faded()
    clean = np.array(find_range(gray))
    spoil(gray)
    assert np.abs(find_range(gray) - clean).max() < 12  # of the 135 levels that are used


def test_noise_is_not_made_a_picture():
    rng = np.random.default_rng(0)
    assert find_levels(rng.integers(100, 104, (90, 90)).astype(np.uint8)).is_identity
    assert find_levels(np.full((90, 90), 7, np.uint8)).is_identity
    assert find_levels(rng.integers(100, 120, (90, 90)).astype(np.uint8)).gain <= STEEPEST


def test_a_person_sees_no_steeper_line_than_is_gentle():
    steep = Levels(5.0, -400.0)
    gentle = steep.gentle()
    middle = (BLACK + WHITE) / 2
    assert gentle.gain == GENTLE
    assert gentle.offset + gentle.gain * ((middle + 400) / 5) == pytest.approx(middle)
    assert Levels(2.0, -9.0).gentle() == Levels(2.0, -9.0)
