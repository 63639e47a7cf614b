# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from coltran.photo.border import Border, find_border, recolor_print
from coltran.photo.recolor import luminance
from coltran.photo.view import look
from tests.tiny import scene

PRINT = (240, 320)  # pixels, height and width
WIDE = 30  # of the border


def scan(
    level: tuple[int, int, int], widths: tuple[int, int, int, int] = (WIDE,) * 4, *, ragged: int = 0, noise: float = 0
) -> np.ndarray:
    """A print on paper of a colour; widths at the left, top, right and bottom."""
    rng = np.random.default_rng(0)
    (height, width), (left, top, right, bottom) = PRINT, widths
    picture = np.repeat(scene(height, width)[..., None], 3, -1) * 0.5 + 60.0
    whole = np.full((top + height + bottom, left + width + right, 3), level, float)
    inside = np.ones((height, width), bool)
    for turn in range(4 * bool(ragged)):
        side = np.rot90(inside, turn)
        wander = np.repeat(rng.integers(0, ragged + 1, side.shape[1] // 5 + 1), 5)[: side.shape[1]]
        side[np.arange(side.shape[0])[:, None] < wander] = False
    whole[top : top + height, left : left + width][inside] = picture[inside]
    return np.clip(np.rint(whole + rng.normal(0, noise, whole.shape)), 0, 255).astype(np.uint8)


def assert_inner(found: Border | None, widths: tuple[int, int, int, int], within: int) -> None:
    assert found is not None
    left, top = widths[:2]
    expected = (left, top, left + PRINT[1], top + PRINT[0])
    inset = np.array([1, 1, -1, -1]) * (np.array(found.inner) - expected)
    assert ((inset >= 0) & (inset <= within)).all(), found.inner


@pytest.mark.parametrize("level", [(255, 255, 255), (0, 0, 0), (150, 150, 150), (236, 222, 190), (60, 40, 30)])
def test_a_border_of_any_level_or_tint_is_found(level):
    as_in_the_print = level[0] == 150  # whose pixels beside the border may pass for it
    assert_inner(find_border(scan(level)), (WIDE,) * 4, 6 if as_in_the_print else 1)


@pytest.mark.parametrize("widths", [(5,) * 4, (90,) * 4, (20, 20, 20, 80), (40, 9, 21, 33)])
def test_a_border_of_any_width_is_found(widths):
    assert_inner(find_border(scan((240, 240, 236), widths)), widths, 1)


def test_a_border_is_found_through_grain_and_a_ragged_edge():
    assert_inner(find_border(scan((228, 220, 200), ragged=5, noise=3)), (WIDE,) * 4, 7)


def test_the_border_of_a_large_scan_is_found_at_its_own_size():
    large = np.kron(scan((225, 215, 190)), np.ones((5, 5, 1), np.uint8))
    found = find_border(large)
    assert found is not None
    assert np.abs(np.array(found.inner) - 5 * np.array((30, 30, 350, 270))).max() <= 8


def test_borders_within_each_other_are_all_found():
    white = scan((245, 245, 240))
    dark = np.pad(white, ((25, 25), (40, 40), (0, 0)), constant_values=15)
    found = find_border(dark)
    assert found is not None
    assert np.abs(np.array(found.inner) - (70, 55, 390, 295)).max() <= 1


@pytest.mark.parametrize("side", range(4))
def test_a_bar_at_one_side_is_a_border_only_where_it_is_black_or_white(side):
    widths = tuple(WIDE * (side == k) for k in range(4))
    assert find_border(scan((255, 255, 255), widths)) is not None
    assert find_border(scan((170, 170, 170), widths)) is None  # perhaps a sky


@pytest.mark.parametrize("shape", [(200, 300), (40, 40), (31, 500), (1, 1), (9, 3)])
def test_a_picture_without_a_border_has_none(shape):
    assert find_border(scene(*shape)) is None
    assert find_border(np.full(shape, 128, np.uint8)) is None
    rng = np.random.default_rng(0)
    assert find_border(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)) is None


def test_an_object_before_a_plain_ground_has_no_border():
    y, x = np.mgrid[:240, :320]
    ground = np.full((240, 320), 150, np.uint8)
    ball = (y - 120) ** 2 + (x - 160) ** 2 < 100**2
    ground[ball] = scene(240, 320)[ball]
    assert find_border(ground) is None


def test_the_border_gets_no_colour_and_the_print_up_to_its_ragged_edge_does():
    photo = scan((228, 220, 200), ragged=5)
    found = find_border(photo)
    assert found is not None
    red = np.full((4, 4, 3), (200, 80, 80), np.uint8)
    coloured = recolor_print(luminance(photo), red, found, np.uint8, 1.0)
    paper = (photo == (228, 220, 200)).all(-1)
    chroma = np.ptp(coloured.astype(int), axis=-1)
    assert np.abs(luminance(coloured) - luminance(photo)).max() <= 0.5 + 1e-3
    assert chroma[paper].max() == 0 or (chroma[paper] > 0).mean() < 0.005
    assert (chroma[~paper] > 20).mean() > 0.99


def test_the_networks_see_a_print_as_if_it_were_alone():
    photo = scan((236, 222, 190))
    alone = photo[WIDE:-WIDE, WIDE:-WIDE]
    with_border = look(photo, fit="stretch", low=64, high=256, levels="auto", border="auto")
    without = look(alone, fit="stretch", low=64, high=256, levels="auto", border="auto")
    np.testing.assert_array_equal(with_border.gray_low, without.gray_low)
    np.testing.assert_array_equal(with_border.gray_high, without.gray_high)
    small = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (whole,), (part,) = with_border.recolor([small]), without.recolor([small])
    np.testing.assert_array_equal(whole[WIDE:-WIDE, WIDE:-WIDE], part)
    assert np.ptp(whole[: WIDE - 1].astype(int), axis=-1).max() == 0
