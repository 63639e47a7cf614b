# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from coltran.photo.hints import Hint, hinted_labels
from coltran.photo.recolor import luminance
from coltran.photo.view import View, look
from tests.tiny import scene

SIDES = {"low": 16, "high": 64}


def faded(low: int = 60, high: int = 195) -> np.ndarray:
    """A faded photograph uint8 [96, 128, 3] with colours."""
    gray = scene(96, 128)[..., None]
    colours = np.clip(gray * 0.6 + np.array([90, 40, 10]), 0, 255)
    return np.rint(low + colours * ((high - low) / 255)).astype(np.uint8)


def seen(photo: np.ndarray, levels: str) -> View:
    return look(photo, fit="stretch", levels=levels, **SIDES)


def _chroma(photo: np.ndarray) -> float:
    return float(np.abs(photo - luminance(photo)[..., None]).mean())


SMALL = np.random.default_rng(0).integers(90, 160, (16, 16, 3)).astype(np.uint8)


def test_the_networks_see_a_faded_photograph_at_full_range():
    kept, stretched = seen(faded(), "keep"), seen(faded(), "auto")
    assert np.ptp(kept.gray_high.astype(int)) < 100
    assert np.ptp(stretched.gray_high.astype(int)) > 190
    np.testing.assert_array_equal(stretched.gray_high, seen(faded(), "restore").gray_high)


def test_the_result_keeps_its_luminance_and_gets_chroma_that_fits_its_contrast():
    photo = faded()
    kept, stretched = (seen(photo, levels) for levels in ("keep", "auto"))
    (plain,), (fitting,) = kept.recolor([SMALL]), stretched.recolor([SMALL])
    assert np.abs(luminance(fitting) - luminance(photo)).max() <= 0.5 + 1e-3
    assert _chroma(fitting) / _chroma(plain) == pytest.approx(stretched.levels.chroma, rel=0.05)
    assert stretched.levels.chroma < 1


def test_a_restored_result_has_the_luminance_that_the_networks_saw_and_their_chroma():
    view = seen(faded(), "restore")
    (image,) = view.recolor([SMALL])
    assert np.abs(luminance(image) - view.levels.stretch(luminance(faded()))).max() <= 0.5 + 1e-3
    assert view.chroma == 1


def test_a_very_faded_photograph_is_restored_within_limits():
    view = seen(faded(110, 150), "restore")
    assert view.levels.gain > view.shown.gain == 3
    assert 0.4 < view.chroma < 1


def test_sixteen_bits_keep_their_steps():
    fine = (np.arange(96 * 128).reshape(96, 128) % 4096).astype(np.uint16) + 3000  # sixteen levels of eight bits
    view = look(fine, fit="stretch", levels="restore", **SIDES)
    assert len(np.unique(view.gray_high)) > 40
    (image,) = view.recolor([SMALL])
    assert image.dtype == np.uint16 and len(np.unique(image[..., 1])) > 1000


def test_a_hint_comes_out_in_the_colour_that_was_asked_for():
    photo = faded()
    view = seen(photo, "auto")
    pale = (130, 120, 112)
    label = hinted_labels([Hint(64, 48, pale, 200)], view)
    strong = hinted_labels([Hint(64, 48, pale, 200)], seen(photo, "keep"))
    assert (label != strong).any()  # the networks are asked for more chroma, of which the result gets its share


def test_the_labels_of_a_faded_colouring_are_those_of_its_colours_at_full_range():
    full = faded(0, 255)
    agree = (seen(faded(), "auto").labels() == seen(full, "auto").labels()).mean()
    assert agree > 0.7  # the rest are a level from the next label
