# SPDX-License-Identifier: Apache-2.0
"""Large JPEGs may be read at a fraction of their size."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from coltran.image import area_resize, load_photo
from coltran.training.data import train_batches
from tests.tiny_training import whole_config, write_photo


@pytest.fixture
def large(tmp_path):
    return write_photo(tmp_path / "photos" / "large.jpg", 0, 160, 200)


@pytest.mark.parametrize(("least", "shape"), [(0, (160, 200)), (81, (160, 200)), (80, (80, 100)), (40, (40, 50))])
def test_both_sides_stay_as_long_as_asked(large, least, shape):
    assert load_photo(large, least=least).shape == (*shape, 3)


def test_what_is_read_is_the_photograph_made_smaller(large):
    smaller = load_photo(large, least=40).astype(int)
    assert np.abs(smaller - area_resize(load_photo(large), (40, 50))).mean() < 2  # levels


def test_other_formats_come_whole(large):
    Image.open(large).save(large.with_suffix(".png"))
    assert load_photo(large.with_suffix(".png"), least=20).shape == (160, 200, 3)


@pytest.mark.parametrize(("options", "shape"), [({}, (80, 100)), ({"random_resized_crop": 0.01}, (160, 200))])
def test_training_reads_as_much_as_its_smallest_crop_needs(large, monkeypatch, options, shape):
    seen = []

    def note(*args, **named):
        seen.append(load_photo(*args, **named))
        return seen[-1]

    monkeypatch.setattr("coltran.training.data.image.load_photo", note)
    for draft in (True, False):
        config = whole_config(resolution=[64, 64], downsample_res=8, jpeg_draft=draft, **options)
        batches = train_batches(config, large.parent, "coltran_core", 0, 0, 0)
        next(batches)
        batches.close()
    assert seen[0].shape == (*shape, 3) and seen[-1].shape == (160, 200, 3)
