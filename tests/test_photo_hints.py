# SPDX-License-Identifier: Apache-2.0
"""Edits become labels: of the hue that was asked for, of the gray that is there, at the cell that holds the pixel."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from coltran.image import colors_to_labels, labels_to_colors, rgb_to_gray
from coltran.photo.hints import Box, Edits, Hint, HintError, coarse_labels, hinted_labels, parse_hint, read_mask, shades
from coltran.photo.view import look

RED = (255, 0, 0)


def view_of(height, width, fit="stretch", level=76):
    return look(np.full((height, width, 3), level, np.uint8), fit=fit, low=8, high=16)


def imposed(labels):
    return [tuple(cell) for cell in np.argwhere(labels >= 0).tolist()]


def test_a_colour_of_the_gray_that_is_there_keeps_its_own_label():
    colours = np.random.default_rng(0).integers(0, 256, (2000, 3), dtype=np.uint8)
    luma = colours @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_array_equal(coarse_labels(colours, luma), colors_to_labels(colours >> 5))


def test_the_label_allows_the_gray_that_is_there():
    rng = np.random.default_rng(1)
    gray = rng.integers(0, 255, 5000)
    darkest = labels_to_colors(coarse_labels(rng.integers(0, 256, (5000, 3)), gray))
    assert (rgb_to_gray(darkest.astype(int)) <= gray).all()
    assert (gray <= rgb_to_gray(darkest.astype(int) + 31) + 1).all()  # luma is kept to within a level


@pytest.mark.parametrize(("colour", "channel"), [(RED, 0), ((0, 255, 0), 1), ((0, 0, 255), 2)])
@pytest.mark.parametrize("gray", [40, 128, 220])
def test_the_hue_stays_at_any_luminance(colour, channel, gray):
    found = labels_to_colors(coarse_labels(np.array([colour]), np.array([gray])))[0]
    assert found[channel] > max(np.delete(found, channel))


@pytest.mark.parametrize(("x", "y", "cell"), [(0, 0, (0, 0)), (30, 19, (7, 7)), (4, 2, (0, 1)), (3, 3, (1, 0))])
def test_a_hint_lies_in_the_cell_that_holds_its_pixel(x, y, cell):
    assert imposed(hinted_labels([Hint(x, y, RED)], view_of(20, 31))) == [cell]


def test_the_pixels_are_those_of_the_whole_photograph_also_where_its_centre_is_coloured():
    view = view_of(20, 30, "crop")
    assert imposed(hinted_labels([Hint(5, 0, RED), Hint(24, 19, RED)], view)) == [(0, 0), (7, 7)]


@pytest.mark.parametrize(("shape", "cell"), [((20, 80), (4, 24)), ((80, 20), (8, 12))])
def test_the_pixels_are_those_of_the_whole_photograph_also_in_a_panorama(shape, cell):
    x, y = (60, 10) if shape[1] > shape[0] else (30 // 2, 20)
    view = view_of(*shape)
    row, column = y * view.gray_low.shape[0] // shape[0], x * view.gray_low.shape[1] // shape[1]
    assert max(view.gray_low.shape) == 32
    assert imposed(hinted_labels([Hint(x, y, RED)], view)) == [(row, column)]


def test_a_dab_covers_the_cells_whose_centres_lie_within_its_radius():
    view = view_of(16, 32)  # cells of 2 x 4 pixels, centres at 0.5, 2.5, ... and 1.5, 5.5, ...
    covered = [(2, 2), (3, 2), (3, 3), (4, 2), (4, 3), (5, 2)]
    assert imposed(hinted_labels([Hint(10, 7, RED, radius=4)], view)) == covered
    assert imposed(hinted_labels([Hint(11, 7, RED, radius=1)], view)) == [(3, 2)]


def test_hints_in_one_cell_are_their_mean():
    hints = [Hint(0, 0, (200, 0, 0)), Hint(1, 1, (100, 0, 40))]
    mean = hinted_labels([Hint(0, 0, (150, 0, 20))], view_of(20, 31))
    np.testing.assert_array_equal(hinted_labels(hints, view_of(20, 31)), mean)


@pytest.mark.parametrize(("x", "y"), [(31, 0), (0, 20), (-1, 3)])
def test_a_hint_outside_of_what_is_coloured_is_refused(x, y):
    with pytest.raises(HintError, match=f"The hint at {x},{y} lies outside of what is coloured, x 0 .. 30, y 0 .. 19"):
        hinted_labels([Hint(2, 2, RED), Hint(x, y, RED)], view_of(20, 31))
    with pytest.raises(HintError, match="x 5 .. 24, y 0 .. 19"):
        hinted_labels([Hint(4, 2, RED)], view_of(20, 30, "crop"))


def test_a_hint_is_read_from_text():
    assert parse_hint("12, 7, #ff8000") == Hint(12, 7, (255, 128, 0))
    assert parse_hint("12,7,FF8000") == Hint(12, 7, (255, 128, 0))
    assert parse_hint("12,7,#ff8000,9") == Hint(12, 7, (255, 128, 0), radius=9)


@pytest.mark.parametrize("text", ["", "1,2", "1,2,red", "1,2,#ff", "-1,2,#ff0000", "1.5,2,#ff0000", "1,2,#ff0000,-3"])
def test_text_that_is_no_hint_is_refused(text):
    with pytest.raises(HintError, match="is not a hint such as 120,45,#c03020"):
        parse_hint(text)


def saved_mask(path, *dabs, size=(31, 20)):
    mask = Image.new("RGBA", size)
    for x, y, colour in dabs:
        mask.putpixel((x, y), colour)
    mask.save(path)
    return path


def test_a_mask_is_its_opaque_pixels(tmp_path):
    path = saved_mask(tmp_path / "m.png", (3, 4, (*RED, 255)), (9, 1, (0, 9, 8, 128)), (5, 5, (0, 0, 255, 127)))
    assert read_mask(path, 20, 31) == [Hint(9, 1, (0, 9, 8)), Hint(3, 4, RED)]


def test_masks_that_cannot_be_meant_are_refused(tmp_path):
    with pytest.raises(HintError, match="have 8 x 9 pixels, the photograph 31 x 20"):
        read_mask(saved_mask(tmp_path / "m.png", size=(8, 9)), 20, 31)
    with pytest.raises(HintError, match="transparent everywhere"):
        read_mask(saved_mask(tmp_path / "m.png"), 20, 31)
    Image.new("RGB", (31, 20)).save(tmp_path / "m.png")
    with pytest.raises(HintError, match="no transparency"):
        read_mask(tmp_path / "m.png", 20, 31)


def test_what_lies_outside_a_box_is_kept_and_hints_come_first():
    view = view_of(16, 32)  # cells of 2 x 4 pixels
    kept = np.arange(64).reshape(8, 8)
    labels = Edits(hints=[Hint(0, 0, RED)], kept=kept, redraw=Box(4, 3, 9, 6)).labels(view)
    expected = kept.copy()
    expected[1:3, 1:3] = -1
    expected[0, 0] = coarse_labels(np.array([RED]), np.array([76]))[0]
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("box", [Box(5, 5, 5, 9), Box(32, 0, 40, 9), Box(-9, 0, 0, 9), Box(9, 9, 3, 12)])
def test_a_box_with_nothing_of_the_photograph_is_refused(box):
    with pytest.raises(HintError, match="Nothing of the photograph lies in the box"):
        Edits(kept=np.zeros((8, 8), int), redraw=box).labels(view_of(16, 32))


def test_a_colouring_of_another_photograph_is_not_kept():
    with pytest.raises(HintError, match="has 9 x 8 cells, the photograph 8 x 8"):
        Edits(kept=np.zeros((8, 9), int)).labels(view_of(16, 32))


def test_a_hint_of_a_labels_shade_imposes_that_label_wherever_it_allows_the_gray():
    labels, gray = (grid.ravel() for grid in np.meshgrid(np.arange(512), np.arange(256), indexing="ij"))
    darkest = labels_to_colors(labels) @ np.array([0.299, 0.587, 0.114])
    allowed = (darkest <= gray) & (gray <= darkest + 31)
    assert allowed.sum() > 15000
    labels, gray = labels[allowed], gray[allowed]
    np.testing.assert_array_equal(coarse_labels(shades(labels, gray), gray), labels)
