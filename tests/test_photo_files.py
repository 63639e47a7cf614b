# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib
import io
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from coltran.image import PhotoError, load_photo
from coltran.photo import files

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _pixels(height: int = 12, width: int = 9) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _tags(**named: object) -> Image.Exif:
    exif = Image.Exif()
    for name, value in named.items():
        exif[ExifTags.Base[name]] = value
    return exif


@pytest.mark.parametrize("format", ["png", "tiff"])
def test_pixels_come_back_where_the_format_loses_none(tmp_path, format):
    path = tmp_path / f"a{files.FORMATS[format]}"
    files.write(_pixels(), path, format=format, quality=95)
    found = files.read(path)
    np.testing.assert_array_equal(found.rgb, _pixels())
    assert found.format == format


@pytest.mark.parametrize("format", files.FORMATS)
def test_every_format_keeps_exif_gets_a_description_and_is_tagged_as_srgb(tmp_path, format):
    path = tmp_path / "a"
    exif = _tags(Make="A maker", DateTime="1950:01:01 12:00:00").tobytes()
    files.write(_pixels(), path, format=format, quality=95, exif=exif, description="what it is")
    with Image.open(path) as image:
        found = image.getexif()
        assert found[ExifTags.Base.Make] == "A maker"
        assert found[ExifTags.Base.DateTime] == "1950:01:01 12:00:00"
        assert found[ExifTags.Base.ImageDescription] == "what it is"
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        assert ImageCms.getProfileDescription(profile).startswith("sRGB")


def test_the_orientation_is_applied_and_not_kept(tmp_path):
    Image.fromarray(_pixels()).save(tmp_path / "a.png", exif=_tags(Orientation=6))
    found = files.read(tmp_path / "a.png")
    np.testing.assert_array_equal(found.rgb, np.rot90(_pixels(), -1))
    files.write(found.rgb, tmp_path / "b.png", format="png", quality=95, exif=found.exif)
    assert ExifTags.Base.Orientation not in Image.open(tmp_path / "b.png").getexif()
    np.testing.assert_array_equal(files.read(tmp_path / "b.png").rgb, found.rgb)


def test_a_profile_of_another_colour_space_is_applied(tmp_path):
    red_and_blue_exchanged = SRGB.replace(b"rXYZ", b"----").replace(b"bXYZ", b"rXYZ").replace(b"----", b"bXYZ")
    Image.fromarray(_pixels()).save(tmp_path / "srgb.png", icc_profile=SRGB)
    Image.fromarray(_pixels()).save(tmp_path / "other.png", icc_profile=red_and_blue_exchanged)
    assert np.abs(files.read(tmp_path / "srgb.png").rgb.astype(int) - _pixels()).max() <= 1
    assert np.abs(files.read(tmp_path / "other.png").rgb.astype(int) - _pixels()[..., ::-1]).max() <= 1


def test_the_same_photograph_is_written_to_the_same_bytes(tmp_path):
    files.write(_pixels(), tmp_path / "a", format="png", quality=95)
    time.sleep(1.01)  # profiles count in seconds
    importlib.reload(files)  # as another run, at another time
    files.write(_pixels(), tmp_path / "b", format="png", quality=95)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_broken_profile_is_passed_over(tmp_path):
    Image.fromarray(_pixels()).save(tmp_path / "a.png", icc_profile=b"no profile")
    np.testing.assert_array_equal(files.read(tmp_path / "a.png").rgb, _pixels())


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_image_is_read_as_load_photo_reads_it(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    source = Image.fromarray(_pixels())
    (source.convert("I;16") if mode == "I;16" else source.convert(mode)).save(path)
    np.testing.assert_array_equal(files.read(path).rgb, load_photo(path))


def test_a_file_that_is_no_image_is_one_sentence(tmp_path):
    Path(tmp_path / "a.png").write_text("text")
    with pytest.raises(PhotoError, match="is not an image that can be read"):
        files.read(tmp_path / "a.png")
    with pytest.raises(PhotoError, match="does not exist"):
        files.read(tmp_path / "b.png")


def test_more_pixels_a_side_than_a_format_holds_are_one_sentence():
    wide = np.zeros((1, 70000, 3), np.uint8)
    with pytest.raises(PhotoError, match="jpeg holds at most 65535 pixels a side"):
        files.check_side(wide, "jpeg")
    files.check_side(wide, "png")
