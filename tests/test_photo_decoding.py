# SPDX-License-Identifier: Apache-2.0
"""What kinds of files there are, their pages, how large they may be, and what is said of them."""

from __future__ import annotations

import io
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coltran import album
from coltran.image import PHOTO_SUFFIXES, PhotoError, list_photos, load_photo
from coltran.photo import decoding, exif, files, kinds, memory
from coltran.photo.notes import notes_on
from tests.tiny import scene


def _save(path: Path, *pages: tuple[int, int], **options) -> Path:
    images = [Image.fromarray(np.roll(scene(*page), k, 1)) for k, page in enumerate(pages)]
    images[0].save(path, save_all=len(images) > 1, append_images=images[1:], **options)
    return path


def _tiff(*pages: tuple[np.ndarray, int]) -> bytes:
    """A TIFF of gray pages uint8 [H, W], each with its NewSubfileType."""
    out = bytearray(b"II*\0" + bytes(4))
    link = 4  # where the place of the next directory is to be written
    for pixels, kind in pages:
        begin, (height, width) = len(out), pixels.shape
        out += pixels.tobytes() + bytes(pixels.size % 2)
        sizes = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: begin, 277: 1, 278: height, 279: pixels.size}
        tags = {
            number: exif.Tag(exif.LONG, struct.pack("<I", value)) for number, value in ({254: kind} | sizes).items()
        }
        struct.pack_into("<I", out, link, len(out))
        link = len(out) + 2 + 12 * len(tags)
        out += exif.directory(tags, len(out))
    return bytes(out)


@pytest.mark.parametrize("suffix", [".tif", ".gif", ".webp", ".png"])
def test_of_several_pages_the_first_is_read_and_that_is_said(tmp_path, suffix):
    path = _save(tmp_path / f"a{suffix}", (20, 30), (20, 30), (20, 30))
    photo = files.read(path)
    assert photo.pixels.shape == (20, 30, 3)
    assert len(photo.notes) == 1 and "has 3 " in photo.notes[0] and "--pages all" in photo.notes[0]
    assert decoding.find_pages(path) == [0, 1, 2]


def test_each_page_can_be_read(tmp_path):
    path = _save(tmp_path / "a.tif", (20, 30), (21, 31), (22, 32))
    assert [files.read(path, page=page).pixels.shape[:2] for page in range(3)] == [(20, 30), (21, 31), (22, 32)]


def test_a_first_page_that_is_a_thumbnail_is_skipped(tmp_path):
    (tmp_path / "a.tif").write_bytes(_tiff((scene(10, 12), 1), (scene(40, 48), 0)))
    photo = files.read(tmp_path / "a.tif")
    assert photo.pixels.shape == load_photo(tmp_path / "a.tif").shape == (40, 48, 3)
    assert photo.notes == () and decoding.find_pages(tmp_path / "a.tif") == [1]


def test_a_file_of_thumbnails_alone_gives_the_first(tmp_path):
    (tmp_path / "a.tif").write_bytes(_tiff((scene(10, 12), 1), (scene(40, 48), 1)))
    assert files.read(tmp_path / "a.tif").pixels.shape == (10, 12, 3)


@pytest.mark.parametrize("suffix", [".mpo", ".j2k", ".pcx", ".qoi", ".sgi", ".tga", ".dds", ".avif"])
def test_what_pillow_reads_is_found_in_folders(tmp_path, suffix):
    if suffix not in Image.registered_extensions():
        pytest.skip("this build of Pillow does not write it")
    path = tmp_path / f"a{suffix}"
    Image.fromarray(np.repeat(scene(16, 24)[..., None], 3, -1)).save(path)
    assert list_photos([tmp_path]) == [path]
    assert files.read(path).pixels.shape == (16, 24, 3)


def test_heic_is_read_where_the_package_is(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.fromarray(scene(64, 96)).convert("RGB")).save(tmp_path / "a.heic")
    assert ".heic" in PHOTO_SUFFIXES and list_photos([tmp_path]) == [tmp_path / "a.heic"]
    assert files.read(tmp_path / "a.heic").pixels.shape == (64, 96, 3)


def test_heic_is_named_with_its_extra_where_the_package_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(kinds, "_has_heif", lambda: False)
    monkeypatch.setattr(kinds, "PHOTO_SUFFIXES", PHOTO_SUFFIXES - kinds.HEIF)
    (tmp_path / "a.heic").write_bytes(b"no picture")
    with pytest.raises(PhotoError, match=r"pip install coltran\[heif\]"):
        load_photo(tmp_path / "a.heic")


def test_camera_raw_is_named_as_such(tmp_path):
    Image.fromarray(scene(16, 24)).save(tmp_path / "a.tif", tiffinfo={decoding.DNG_VERSION: b"\1\4\0\0"})
    (tmp_path / "a.tif").rename(tmp_path / "b.tif")
    (tmp_path / "c.nef").write_bytes((tmp_path / "b.tif").read_bytes())
    for name in ("b.tif", "c.nef"):
        with pytest.raises(PhotoError, match="is camera raw, to be saved as TIFF or JPEG first"):
            files.read(tmp_path / name)


def test_what_is_left_out_of_a_folder_is_counted_by_kind(tmp_path, caplog):
    Image.fromarray(scene(16, 24)).save(tmp_path / "a.png")
    for name in ("a.dng", "b.CR2", "c.jxl", "d.mp4", "e.pdf", "f.txt"):
        (tmp_path / name).write_bytes(b"")
    with caplog.at_level("WARNING", "coltran"):
        photos, problems = album.find_photos([str(tmp_path)], None)
    assert list(photos) == [tmp_path / "a.png"] and not problems
    (said,) = caplog.messages
    for part in ("2 of camera raw", "1 of JPEG XL", "1 of films", "1 of documents"):
        assert part in said


@pytest.mark.filterwarnings("ignore:Image size")
def test_the_limit_of_megapixels_is_named_and_can_be_lifted(tmp_path, monkeypatch):
    Image.fromarray(scene(50, 60)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(PhotoError, match=r"a\.png has 0 megapixels, and up to 0 are read: --megapixels"):
        files.read(tmp_path / "a.png")
    decoding.allow_megapixels(0.003)
    assert files.read(tmp_path / "a.png").pixels.shape == (50, 60, 3)


def test_too_little_memory_is_a_sentence_before_the_photograph_is_read(tmp_path, monkeypatch):
    Image.fromarray(scene(50, 60)).save(tmp_path / "a.png")
    monkeypatch.setattr(memory, "SMALL", 100)
    monkeypatch.setattr(memory, "available", lambda: 50_000)
    monkeypatch.setattr(Image.Image, "load", None)
    with pytest.raises(PhotoError, match=r"needs about 0\.0 GB of memory: 0\.0 are free\.$") as error:
        files.read(tmp_path / "a.png")
    assert "a.png" in str(error.value)


def test_the_limit_of_a_process_counts_as_its_memory():
    limits, room = resource.getrlimit(resource.RLIMIT_AS), 1 << 28
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    try:
        resource.setrlimit(resource.RLIMIT_AS, (used + room, limits[1]))
        assert 0 < memory.available() <= room
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_a_scan_of_one_bit_is_said_and_one_of_grays_is_not(mode):
    gray = Image.fromarray(scene(90, 120))
    bits = files.of_image(gray.convert("1").convert(mode))
    assert any("one bit" in note for note in bits.notes)
    assert files.of_image(gray).notes == ()


def test_a_colour_negative_is_said_and_an_old_print_is_not():
    gray = scene(90, 120)[..., None] / 255
    negative = np.array([235, 150, 95]) * (1 - 0.8 * gray)
    print_ = np.array([235, 220, 190]) * (0.2 + 0.8 * gray)
    assert ["negative" in note for note in notes_on(negative.astype(np.uint8))] == [True]
    assert not list(notes_on(print_.astype(np.uint8)))


def test_a_file_is_read_from_memory_as_from_its_path(tmp_path):
    Image.fromarray(scene(16, 24)).save(tmp_path / "a.png")
    content = io.BytesIO((tmp_path / "a.png").read_bytes())
    np.testing.assert_array_equal(files.read("anything", content).pixels, files.read(tmp_path / "a.png").pixels)
