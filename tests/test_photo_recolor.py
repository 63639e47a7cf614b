# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from coltran.photo import recolor as module
from coltran.photo.recolor import for_photographs, luminance, recolor, without_specks


def _random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(1, 1), (1, 90), (90, 1), (33, 70), (70, 33), (4, 4)])
@pytest.mark.parametrize("small", [(1, 1), (5, 5), (16, 40)])
def test_the_luminance_is_kept_to_half_a_level_everywhere(shape, small):
    luma = luminance(_random(*shape))
    assert np.abs(luminance(recolor(luma, _random(*small, seed=1))) - luma).max() <= 0.5 + 1e-3


def test_colours_inside_the_gamut_come_back_as_they_were():
    photo = np.random.default_rng(0).integers(60, 200, (7, 9, 3), dtype=np.uint8)
    assert np.abs(recolor(luminance(photo), photo).astype(int) - photo).max() <= 1


def test_a_colour_that_does_not_exist_at_a_luminance_becomes_paler_but_keeps_its_hue():
    red = np.full((1, 1, 3), (255, 0, 0), np.uint8)
    luma = np.array([[200.0]], np.float32)
    r, g, b = (int(value) for value in recolor(luma, red)[0, 0])
    assert r == 255
    assert g == b == 177  # (200 - 0.299 * 255) / 0.701 = 176.5


def test_black_and_white_stay_so_and_a_gray_image_brings_no_colours():
    for value in (0, 255):
        assert (recolor(np.full((3, 4), value, np.float32), _random(2, 2)) == value).all()
    result = recolor(luminance(_random(20, 30)), np.full((4, 4, 3), 90, np.uint8))
    assert np.ptp(result, axis=-1).max() == 0


def test_the_result_does_not_depend_on_the_strips(monkeypatch):
    luma, small = luminance(_random(37, 29)), _random(8, 8, seed=1)
    whole = recolor(luma, small)
    monkeypatch.setattr(module, "STRIP", 100)
    assert np.abs(recolor(luma, small).astype(int) - whole).max() <= 1  # sums of products of other sizes may round


def test_a_photograph_smaller_than_the_networks_gets_the_mean_colour_of_each_area():
    small = np.zeros((4, 4, 3), np.uint8)
    small[::2] = (200, 100, 100)
    small[1::2] = (100, 100, 200)
    r, g, b = (int(value) for value in recolor(np.full((1, 1), 120, np.float32), small)[0, 0])
    assert (r - g, b - g) == (50, 50)


def test_a_speck_takes_the_chroma_around_it_and_keeps_its_luma():
    drawn = np.full((9, 12, 3), (150, 160, 200), np.uint8)
    drawn[4, 5:7] = (150, 160, 20)
    found = without_specks(drawn)
    np.testing.assert_allclose(luminance(found), luminance(drawn), atol=0.5)
    np.testing.assert_allclose(np.diff(found, axis=-1), np.broadcast_to([10, 40], (9, 12, 2)), atol=1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (31, 17)])
def test_what_is_no_speck_stays_as_it_was_drawn(shape):
    drawn = np.random.default_rng(0).integers(90, 106, (*shape, 3), dtype=np.uint8)
    np.testing.assert_array_equal(without_specks(drawn), drawn)


def test_an_edge_between_two_colours_is_no_speck():
    drawn = np.full((20, 20, 3), (200, 60, 60), np.uint8)
    drawn[:, 9:] = (60, 60, 200)
    np.testing.assert_array_equal(without_specks(drawn), drawn)


def test_specks_of_the_final_colours_alone_are_kept_from_a_photograph():
    drawn = [_random(64, 64)]
    np.testing.assert_array_equal(for_photographs(drawn, "final"), [without_specks(drawn[0])])
    for stage in ("coarse", "color"):
        np.testing.assert_array_equal(for_photographs(drawn, stage), drawn)
