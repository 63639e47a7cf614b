# SPDX-License-Identifier: Apache-2.0
"""The places to ask about are those whose answer says most about the others."""

from __future__ import annotations

import numpy as np
import pytest

from coltran.photo.ask import ask, block_colors, expected_reduction
from coltran.photo.view import look

RED, BLUE, GRAY = 7 * 64, 7, 3 * 64 + 3 * 8 + 3
SAMPLES = 48


def view_of(height=64, width=64):
    return look(np.zeros((height, width, 3), np.uint8), fit="stretch", low=64, high=64)


def open_regions():
    """Samples in which the left half is red or blue as one, the upper right quarter too, and the rest is noise."""
    rng = np.random.default_rng(3)
    labels = np.empty((SAMPLES, 64, 64), np.int64)
    for one in labels:
        one[:] = np.repeat(np.repeat(rng.choice([RED, BLUE], (16, 16)), 4, 0), 4, 1)
        one[:, :32] = rng.choice([RED, BLUE])
        one[:32, 32:] = rng.choice([RED, BLUE])
    return labels


def test_first_the_largest_open_region_then_the_next():
    first, second, third = ask(open_regions(), view_of())
    assert first.x < 32
    assert second.x >= 32 and second.y < 32
    assert third.x >= 32 and third.y >= 32
    # The left half has 128 blocks of one bit, the quarter 64.
    assert first.bits == pytest.approx(128, rel=0.1)
    assert second.bits == pytest.approx(64, rel=0.1)
    assert third.bits < 8


def test_what_is_independent_is_worth_itself_and_nothing_more():
    classes = np.random.default_rng(0).integers(0, 2, (400, 30))
    assert np.abs(expected_reduction(classes, np.zeros(400, int)) - 1).max() < 0.2  # chance alone would add 0.05


def test_what_is_known_is_worth_nothing():
    labels = np.full((SAMPLES, 64, 64), GRAY)
    assert [place.bits for place in ask(labels, view_of())] == pytest.approx([0, 0, 0], abs=1e-4)


def test_places_are_pixels_of_the_photograph_within_what_is_coloured():
    labels = np.random.default_rng(1).integers(0, 512, (20, 64, 64))
    view = look(np.zeros((100, 150, 3), np.uint8), fit="crop", low=64, high=64)
    places = ask(labels, view, 5)
    assert len({(place.x, place.y) for place in places}) == 5
    assert all(25 <= place.x < 125 and 0 <= place.y < 100 for place in places)


def test_a_strip_has_about_as_many_blocks():
    labels = np.random.default_rng(1).integers(0, 512, (16, 64, 200))
    view = view_of(64, 200)
    assert all(0 <= place.x < 200 and 0 <= place.y < 64 for place in ask(labels, view))


def test_gray_and_the_hues_are_told_apart():
    labels = np.array([GRAY, RED, 7 * 8, BLUE])
    assert len(set(block_colors(labels[None, None], 1).ravel().tolist())) == 4
    assert block_colors(np.full((1, 4, 4), GRAY), 4).tolist() == [[[0]]]
