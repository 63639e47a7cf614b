# SPDX-License-Identifier: Apache-2.0
"""Colourings that differ: measured in a and b, chosen greedily."""

from __future__ import annotations

import numpy as np
import pytest

from coltran.photo.lab import to_ab
from coltran.photo.variety import choose_diverse, differences


def test_colourings_of_16_bits_differ_as_those_of_8_bits():
    images = [np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8) for seed in range(3)]
    wide = [image.astype(np.uint16) * 257 for image in images]
    np.testing.assert_allclose(differences(wide), differences(images), rtol=1e-3)


def test_grays_have_no_a_and_b():
    assert np.abs(to_ab(np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, 1))).max() < 0.2  # OpenCV's tables


def test_a_and_b_are_those_of_cielab():
    red = to_ab(np.array([[255, 0, 0]], np.uint8))[0]
    assert red == pytest.approx([80.09, 67.20], abs=0.2)


def test_difference_is_the_mean_distance_in_a_and_b_and_not_in_lightness():
    dark, light, red = (np.full((80, 90, 3), colour, np.uint8) for colour in ((20,) * 3, (230,) * 3, (255, 0, 0)))
    half = dark.copy()
    half[40:] = red[40:]
    found = differences([dark, light, red, half])
    whole = np.hypot(80.09, 67.20)
    expected = [[0, 0, whole, whole / 2], [0, 0, whole, whole / 2], [whole, whole, 0, whole / 2], [whole / 2] * 3 + [0]]
    np.testing.assert_allclose(found, expected, atol=0.4)


def test_each_choice_is_the_farthest_from_all_before_it():
    places = np.array([0.0, 1.0, 9.0, 10.0, 5.2])
    distances = np.abs(places[:, None] - places)
    assert choose_diverse(distances, 0, 3) == [0, 3, 4, 1]
    assert choose_diverse(distances, 2, 4) == [2, 0, 4, 1, 3]


def test_equal_colourings_are_not_chosen_twice():
    assert sorted(choose_diverse(np.zeros((4, 4)), 1, 3)) == [0, 1, 2, 3]
