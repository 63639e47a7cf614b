# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from coltran.photo import squares


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((300, 400), (64, 64)),
        ((400, 300), (64, 64)),
        ((200, 400), (64, 64)),
        ((100, 300), (64, 192)),
        ((300, 100), (192, 64)),
        ((100, 1000), (64, 640)),
        ((1, 5000), (64, 640)),
    ],
)
def test_the_strip_is_a_square_up_to_two_to_one_and_as_long_as_the_photograph_to_ten(size, expected):
    assert squares.strip(*size, 64) == expected


@pytest.mark.parametrize("length", [8, 9, 13, 14, 15, 20, 21, 80])
def test_squares_cover_the_strip_and_share_a_quarter_with_their_neighbours(length):
    begins = squares.starts(length, 8)
    assert (begins[0], begins[-1]) == (0, length - 8)
    assert all(0 < there - here <= 6 for here, there in pairwise(begins))


@pytest.mark.parametrize("axis", [0, 1])
def test_squares_that_agree_are_joined_to_what_they_were_cut_from(axis):
    whole = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    begins = squares.starts(20, 8)
    pieces = [whole[b : b + 8] if axis == 0 else whole[:, b : b + 8] for b in begins]
    np.testing.assert_array_equal(squares.join(pieces, begins, axis), whole)


def test_no_step_between_squares_of_different_colours_is_larger_than_the_share_of_a_pixel():
    pieces = [np.full((8, 8, 3), value, np.uint8) for value in (0, 90, 180)]
    joined = squares.join(pieces, [0, 6, 12], 1)[0, :, 0].astype(int)
    assert np.abs(np.diff(joined)).max() == 30  # two shared pixels: three steps from 0 to 90
