# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from coltran.image import PhotoError, load_photo
from coltran.photo import files
from tests.tiny import scene


def _jpeg(*, progressive: bool, colours: bool = True, turned: bool = False) -> bytes:
    rng = np.random.default_rng(0)
    rough = cv2.GaussianBlur(rng.normal(0, 60, (240, 320, 3)).astype(np.float32), (0, 0), 1.5)
    pixels = np.clip(scene(240, 320)[..., None] * 0.6 + 50 + rough, 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels if colours else pixels[..., 0])
    tags = Image.Exif()
    tags[0x0112] = 3 if turned else 1
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90, progressive=progressive, exif=tags)
    return out.getvalue()


def _read(data: bytes, share: float, **options) -> files.Photograph:
    return files.read("old.jpg", io.BytesIO(data[: round(len(data) * (1 - share))]), **options)


@pytest.mark.parametrize("colours", [True, False])
@pytest.mark.parametrize("progressive", [True, False])
@pytest.mark.parametrize("share", [0.0005, 0.03, 0.1])
def test_a_jpeg_without_up_to_a_tenth_of_its_data_is_read_and_that_is_said(progressive, colours, share):
    data = _jpeg(progressive=progressive, colours=colours)
    photo, whole = _read(data, share), _read(data, 0)
    assert whole.notes == ()
    assert "is cut off, and about" in photo.notes[0]
    rows = 200  # which are there in any case
    assert np.abs(photo.pixels[:rows].astype(int) - whole.pixels[:rows]).mean() < (4 if progressive else 0.01)


@pytest.mark.parametrize("progressive", [True, False])
def test_a_jpeg_of_which_half_is_missing_is_refused_in_a_sentence(progressive):
    with pytest.raises(PhotoError, match=r"^old\.jpg is cut off, and .* missing\.$"):
        _read(_jpeg(progressive=progressive), 0.5)


def test_what_is_missing_becomes_white_wherever_it_lies():
    for turned in (False, True):
        pixels = _read(_jpeg(progressive=False, turned=turned), 0.1).pixels
        assert (pixels[:3] if turned else pixels[-3:]).min() == 255
        assert (pixels[-3:] if turned else pixels[:3]).min() < 200


def test_strict_refuses_and_says_how_to_go_on():
    with pytest.raises(PhotoError, match="without --strict it is coloured"):
        _read(_jpeg(progressive=True), 0.01, strict=True)


def test_a_training_takes_no_photograph_that_was_cut_off(tmp_path):
    (tmp_path / "a.jpg").write_bytes(_jpeg(progressive=False)[:-500])
    with pytest.raises(PhotoError, match="truncated"):
        load_photo(tmp_path / "a.jpg")


def test_a_jpeg_of_nothing_but_a_head_stays_an_error():
    for length in (3, 100, 500):
        with pytest.raises(PhotoError):
            files.read("old.jpg", io.BytesIO(_jpeg(progressive=True)[:length]))
