# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib
import io
import resource
import struct
import time
import zlib

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, ImageFile

from coltran.image import PhotoError, load_photo
from coltran.photo import exif, files, profiles
from coltran.photo.metadata import Metadata

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _pixels(height: int = 12, width: int = 9) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _tags(**named: object) -> Image.Exif:
    exif = Image.Exif()
    for name, value in named.items():
        exif[ExifTags.Base[name]] = value
    return exif


def _kept(tags: Image.Exif) -> Metadata:
    return Metadata(exif.parse(tags.tobytes()))


def _camera() -> Metadata:
    """EXIF as of a camera, with a directory inside the directory."""
    tags = _tags(Make="A maker", XResolution=72.0)
    tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "1950:01:01 12:00:00"
    return _kept(tags)


@pytest.mark.parametrize("format", ["png", "tiff"])
def test_pixels_come_back_where_the_format_loses_none(tmp_path, format):
    path = tmp_path / f"a{files.FORMATS[format]}"
    files.write(_pixels(), path, format=format, quality=95)
    found = files.read(path)
    np.testing.assert_array_equal(found.pixels, _pixels())
    assert found.format == format


@pytest.mark.parametrize("format", files.FORMATS)
def test_every_format_is_tagged_as_srgb_and_texts_that_are_not_ascii_keep_their_bytes(tmp_path, format):
    tags = _tags(Make="A maker")
    tags[ExifTags.Base.Artist] = "Zoë".encode()
    Image.fromarray(_pixels()).save(tmp_path / "a.jpg", exif=tags)
    found = files.read(tmp_path / "a.jpg").metadata
    for _ in range(2):
        files.write(_pixels(), tmp_path / "b", format=format, quality=95, kept=found, description="what it is")
        assert "Zoë".encode() + b"\0" in (tmp_path / "b").read_bytes()
        with Image.open(tmp_path / "b") as image:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        assert ImageCms.getProfileDescription(profile).startswith("sRGB")
        found = files.read(tmp_path / "b").metadata


def test_xmp_does_not_turn_a_photograph_once_more(tmp_path):
    turned = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    image = Image.fromarray(_pixels())
    image.save(tmp_path / "a.tif", tiffinfo={700: turned, 274: 6})
    found = files.read(tmp_path / "a.tif")
    files.write(found.pixels, tmp_path / "b.tif", format="tiff", quality=95, kept=found.metadata)
    np.testing.assert_array_equal(files.read(tmp_path / "b.tif").pixels, found.pixels)
    assert found.pixels.shape == (9, 12, 3)


def test_the_orientation_is_applied_and_not_kept(tmp_path):
    Image.fromarray(_pixels()).save(tmp_path / "a.png", exif=_tags(Orientation=6))
    found = files.read(tmp_path / "a.png")
    np.testing.assert_array_equal(found.pixels, np.rot90(_pixels(), -1))
    files.write(found.pixels, tmp_path / "b.png", format="png", quality=95, kept=found.metadata)
    assert ExifTags.Base.Orientation not in Image.open(tmp_path / "b.png").getexif()
    np.testing.assert_array_equal(files.read(tmp_path / "b.png").pixels, found.pixels)


def test_a_profile_of_another_colour_space_is_applied(tmp_path):
    red_and_blue_exchanged = SRGB.replace(b"rXYZ", b"----").replace(b"bXYZ", b"rXYZ").replace(b"----", b"bXYZ")
    Image.fromarray(_pixels()).save(tmp_path / "srgb.png", icc_profile=SRGB)
    Image.fromarray(_pixels()).save(tmp_path / "other.png", icc_profile=red_and_blue_exchanged)
    assert np.abs(files.read(tmp_path / "srgb.png").pixels.astype(int) - _pixels()).max() <= 1
    assert np.abs(files.read(tmp_path / "other.png").pixels.astype(int) - _pixels()[..., ::-1]).max() <= 1


def _profile(space: bytes, pcs: bytes, tag: bytes, content: bytes) -> bytes:
    """A colour profile with one tag (ICC.1:2010, 7)."""
    kind = (144 + len(content), 0x02100000, b"prtr", space, pcs, b"acsp")
    header = struct.pack(">I4xI4s4s4s12x4s28x3I48x", *kind, 0xF6D6, 0x10000, 0xD32D)  # and the light of the PCS
    return header + struct.pack(">I4sII", 1, tag, 144, len(content)) + content


def test_inks_are_mixed_as_their_profile_says(tmp_path):
    corners = np.array(list(np.ndindex(2, 2, 2, 2)))  # of cyan, magenta, yellow, black
    lab = np.stack((255 * (1 - corners[:, 3]), 128 + 90 * corners[:, 0], np.full(16, 128)), -1)  # here cyan is red
    head = struct.pack(">4s4x3Bx9i", b"mft1", 4, 3, 2, *(65536 * np.eye(3, dtype=int)).ravel())
    table = head + 4 * bytes(range(256)) + lab.astype(np.uint8).tobytes() + 3 * bytes(range(256))
    inks = np.array([[(0, 0, 0, 0), (0, 0, 0, 255), (128, 0, 0, 64)]], np.uint8)
    Image.fromarray(inks, mode="CMYK").save(tmp_path / "a.tif", icc_profile=_profile(b"CMYK", b"Lab ", b"A2B0", table))
    white, black, red = files.read(tmp_path / "a.tif").pixels[0].astype(int)
    assert white.min() >= 254
    assert black.max() < 60  # some of it is given back by the rendering intent
    assert red[0] > red[1] + 50


CURVES = {
    "gamma": struct.pack(">4s4xIH", b"curv", 1, 461),
    "linear": struct.pack(">4s4xI", b"curv", 0),
    "table": struct.pack(">4s4xI5H", b"curv", 5, 0, 3000, 12000, 36000, 65535),
    "power": struct.pack(">4s4xHxxi", b"para", 0, 117965),
    "cut": struct.pack(">4s4xHxx3i", b"para", 1, 131072, 72090, -6554),
    "cut above a constant": struct.pack(">4s4xHxx4i", b"para", 2, 131072, 72090, -6554, 0),
    "sRGB": struct.pack(">4s4xHxx5i", b"para", 3, 157286, 62119, 3417, 5072, 2651),
    "line and power": struct.pack(">4s4xHxx7i", b"para", 4, 157286, 62119, 3417, 5072, 2651, 0, 0),
}


@pytest.mark.parametrize("curve", CURVES)
def test_sixteen_bits_of_gray_follow_their_profile_as_eight_do(tmp_path, curve):
    profile = _profile(b"GRAY", b"XYZ ", b"kTRC", CURVES[curve])
    levels = np.arange(256, dtype=np.uint8)[None]
    Image.fromarray(levels).save(tmp_path / "8.png", icc_profile=profile)
    Image.fromarray(257 * levels.astype(np.uint16)).save(tmp_path / "16.png", icc_profile=profile)
    of_eight, of_sixteen = (files.read(tmp_path / name).pixels for name in ("8.png", "16.png"))
    dark = 32  # levels below which the library's own interpolation for 8 bits is off by up to 10
    assert np.abs(of_sixteen / 257 - of_eight[..., 0])[:, dark:].max() <= 1


def test_a_gray_ramp_of_sixteen_bits_stays_one_under_a_profile(tmp_path):
    ramp = np.linspace(20000, 40000, 5000).astype(np.uint16)[None]
    Image.fromarray(ramp).save(tmp_path / "a.png", icc_profile=_profile(b"GRAY", b"XYZ ", b"kTRC", CURVES["gamma"]))
    steps = np.diff(files.read(tmp_path / "a.png").pixels[0].astype(int))
    assert (steps.min(), steps.max()) == (3, 5)  # 4 levels each, and the slope of two curves that are nearly the same


@pytest.mark.parametrize("cut", [0, 100, 140, 150, 157])
def test_a_broken_profile_is_passed_over(tmp_path, cut):
    profile = _profile(b"GRAY", b"XYZ ", b"kTRC", CURVES["table"])[:cut] or b"none"
    for pixels in (np.arange(0, 60000, 1000, dtype=np.uint16)[None], _pixels()):
        Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=profile)
        np.testing.assert_array_equal(files.read(tmp_path / "a.png").pixels, pixels)


def test_the_same_photograph_is_written_to_the_same_bytes(tmp_path):
    files.write(_pixels(), tmp_path / "a", format="png", quality=95)
    time.sleep(1.01)  # profiles count in seconds
    importlib.reload(profiles)  # as another run, at another time
    files.write(_pixels(), tmp_path / "b", format="png", quality=95)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK"])
def test_every_kind_of_image_is_read_as_load_photo_reads_it(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(_pixels()).convert(mode).save(path)
    np.testing.assert_array_equal(files.read(path).pixels, load_photo(path))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "big-endian.tif"])
def test_sixteen_bits_of_gray_are_read_whole(tmp_path, name):
    pixels = np.random.default_rng(0).integers(0, 65536, (7, 5), dtype=np.uint16)
    image = Image.fromarray(pixels) if name.startswith("a") else Image.fromarray(pixels.astype(">u2"))
    image.save(tmp_path / name)
    found = files.read(tmp_path / name).pixels
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize("alpha", [False, True], ids=["opaque", "with alpha"])
@pytest.mark.parametrize("format", ["png", "tiff"])
def test_sixteen_bits_are_written_whole_and_with_the_rest(tmp_path, format, alpha):
    pixels = np.random.default_rng(0).integers(0, 65536, (7, 5, 3), dtype=np.uint16)
    mask = np.arange(35, dtype=np.uint8).reshape(7, 5) if alpha else None
    path = tmp_path / f"a{files.FORMATS[format]}"
    files.write(pixels, path, format=format, quality=95, kept=_camera(), alpha=mask, description="what it is")
    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(found[..., 2::-1], pixels)
    if alpha:
        np.testing.assert_array_equal(found[..., 3], 257 * mask.astype(int))
    with Image.open(path) as image:
        tags = image.getexif()
        assert (tags[ExifTags.Base.Make], tags[ExifTags.Base.Software]) == ("A maker", "what it is")
        assert tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] == "1950:01:01 12:00:00"
        assert ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"])).profile.xcolor_space == "RGB "


@pytest.mark.parametrize("format", files.FORMATS)
def test_transparency_stays_where_the_format_knows_it_and_is_white_elsewhere(tmp_path, format):
    alpha = np.repeat(np.array([0, 128, 255], np.uint8), 4)[None].repeat(6, 0)
    Image.fromarray(np.dstack((np.full((6, 12, 3), 50, np.uint8), alpha))).save(tmp_path / "a.png")
    photo = files.read(tmp_path / "a.png")
    assert photo.pixels[0, ::4].tolist() == [[255] * 3, [50] * 3, [50] * 3]
    path = tmp_path / f"b{files.FORMATS[format]}"
    files.write(photo.pixels, path, format=format, quality=100, alpha=photo.alpha)
    with Image.open(path) as image:
        if format == "jpeg":
            assert np.abs(np.asarray(image)[0, ::4, 0] - np.array([255, 152, 50])).max() <= 3
        else:
            np.testing.assert_array_equal(np.asarray(image)[..., 3], alpha)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK"])
def test_what_a_tiff_says_of_its_own_pixels_is_not_said_of_the_copys(tmp_path, mode):
    Image.fromarray(_pixels()).convert(mode).save(tmp_path / "a.tif", tiffinfo={ExifTags.Base.Artist: "A painter"})
    photo = files.read(tmp_path / "a.tif")
    for format, suffix in files.FORMATS.items():
        path = tmp_path / f"b{suffix}"
        files.write(photo.pixels, path, format=format, quality=95, kept=photo.metadata)
        with Image.open(path) as image:
            assert image.getexif()[ExifTags.Base.Artist] == "A painter"
            if format in ("png", "tiff"):
                np.testing.assert_array_equal(np.asarray(image), photo.pixels)


def test_of_exif_that_a_jpeg_has_no_room_for_the_largest_gives_way(tmp_path):
    kept = _kept(_tags(Make="A maker", Copyright="x" * 70000))
    files.write(_pixels(), tmp_path / "a.jpg", format="jpeg", quality=95, kept=kept, description="what it is")
    found = {ExifTags.Base.Make: "A maker", ExifTags.Base.Software: "what it is"}
    assert dict(Image.open(tmp_path / "a.jpg").getexif()) == found


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_of_an_animation_the_first_image_is_read(tmp_path, name):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
    assert files.read(tmp_path / name).pixels[0, 0].tolist() == [255, 0, 0]


def test_values_whose_range_nobody_knows_are_one_sentence(tmp_path):
    Image.new("F", (4, 4), 0.5).save(tmp_path / "a.tif")
    with pytest.raises(PhotoError, match=r"a.tif cannot be read .*floating-point values, of which .* white is\.$"):
        files.read(tmp_path / "a.tif")


def test_a_file_that_unfolds_to_more_pixels_than_is_safe_is_one_sentence(tmp_path):
    header = b"IHDR" + struct.pack(">II5B", 50000, 50000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    for kind, data in ((b"IDAT", zlib.compress(bytes(9))), (b"IEND", b"")):
        bomb += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    (tmp_path / "a.png").write_bytes(bomb)
    with pytest.raises(
        PhotoError,
        match=r"a.png has 2500 megapixels, and up to 179 are read: --megapixels [^.]*\.colorize lifts that\.$",
    ):
        files.read(tmp_path / "a.png")


@pytest.mark.parametrize("format", files.FORMATS)
def test_on_a_full_disk_what_was_there_remains(tmp_path, format):
    (tmp_path / "a").write_text("earlier")
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, allowed[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: .*/a'"):
            files.write(_pixels(60, 80), tmp_path / "a", format=format, quality=95)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["earlier"]


def test_more_pixels_a_side_than_a_format_holds_are_one_sentence():
    wide = np.zeros((1, 70000, 3), np.uint8)
    with pytest.raises(PhotoError, match="jpeg holds at most 65500 pixels a side"):
        files.check_side(wide, "jpeg")
    files.check_side(wide, "png")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "I;16", "P"])
def test_every_kind_of_image_is_turned_upright_with_its_alpha(tmp_path, mode):
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = 6
    image = Image.new("RGBA" if mode == "P" else mode, (5, 3))
    (image.quantize() if mode == "P" else image).save(tmp_path / "a.png", exif=tags)
    photo = files.read(tmp_path / "a.png")
    assert photo.pixels.shape[:2] == (5, 3)
    assert photo.alpha is None or photo.alpha.shape == (5, 3)


def test_transparency_of_16_bits_of_gray_stays_and_is_white(tmp_path):
    values = np.array([[0, 40000], [65535, 12]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png", transparency=40000)
    found = files.read(tmp_path / "a.png")
    assert found.alpha is not None
    assert found.alpha.tolist() == [[255, 0], [255, 255]]
    assert found.pixels.tolist() == [[0, 65535], [65535, 12]]


@pytest.mark.parametrize("a", [0.0, -1.0])
def test_a_gray_profile_without_sense_changes_nothing(a):
    """A parametric curve of kind 1, of which a is what x is multiplied by, and a power below 0."""
    curve = struct.pack(">4s4xHxx3i", b"para", 1, round(-65536), round(65536 * a), 0)
    profile = bytes(128) + struct.pack(">I4sII", 1, b"kTRC", 144, len(curve)) + curve
    values = np.arange(0, 65536, 4369, dtype=np.uint16).reshape(4, 4)
    np.testing.assert_array_equal(profiles.gray_to_srgb(values, profile), values)


@pytest.mark.parametrize("format", ["png", "jpeg", "webp", "tiff"])
def test_what_we_have_made_is_known_without_decoding_it(tmp_path, monkeypatch, format):
    files.write(_pixels(), tmp_path / "a", format=format, quality=95, description=f"{files.OURS}: seed 0")
    files.write(_pixels(), tmp_path / "b", format=format, quality=95, description="a holiday")
    files.write_png(_pixels(), tmp_path / "c")
    Image.fromarray(_pixels()).save(tmp_path / "d", format="PNG")
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    assert files.said_by_us(tmp_path / "a") == "Coloured by coltran: seed 0"
    assert files.said_by_us(tmp_path / "b") is None
    assert files.said_by_us(tmp_path / "c") == "Coloured by coltran"
    assert files.said_by_us(tmp_path / "d") is None
    assert files.said_by_us(tmp_path / "absent") is None
