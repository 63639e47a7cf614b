# SPDX-License-Identifier: Apache-2.0
"""Maps over photographs: coarse colours as far as they are drawn, and warmth."""

from __future__ import annotations

import numpy as np

from coltran.image import labels_to_colors
from coltran.photo.overlay import heat, paint
from coltran.photo.recolor import luminance, recolor


def test_what_is_drawn_has_its_colours_and_the_rest_is_gray():
    photo = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    labels = np.random.default_rng(1).integers(0, 512, (8, 8))
    np.testing.assert_array_equal(paint(photo, labels), recolor(luminance(photo), labels_to_colors(labels)))
    nothing = paint(photo, np.full((8, 8), -1))
    assert (nothing == nothing[..., :1]).all()


def test_a_preview_is_small():
    photo = np.zeros((300, 1200, 3), np.uint8)
    assert paint(photo, np.zeros((8, 32), int), longest=200).shape == (50, 200, 3)
    assert heat(photo, np.zeros((8, 32)), 1.0, longest=200).shape == (50, 200, 3)


def test_more_is_brighter():
    values = np.linspace(0, 2, 32)[None].repeat(8, 0)
    row = luminance(heat(np.full((8, 32, 3), 100, np.uint8), values, highest=2))[4]
    assert (np.diff(row) >= -1).all()
    assert row[-1] - row[0] > 100
