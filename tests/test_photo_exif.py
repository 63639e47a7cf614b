# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import random
import struct

import pytest
from PIL import ExifTags, Image

from coltran.image import load_photo
from coltran.photo import exif, files
from coltran.photo.exif import CAMERA, IMAGE, INTEROP, PLACE, Tag
from tests import fuzz_exif


def _block(*entries: tuple[int, int, int, bytes], order: str = "<", tail: bytes = b"") -> bytes:
    """EXIF of one directory, of entries (number, type, count, value or offset), as they are given."""
    made = b"".join(struct.pack(f"{order}HHI", *one[:3]) + one[3].ljust(4, b"\0")[:4] for one in entries)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return head + struct.pack(f"{order}H", len(entries)) + made + bytes(4) + tail


def _turned(order: str, kind: int = 3, value: int = 6) -> tuple[int, int, int, bytes]:
    letter = {1: "B", 3: "H", 4: "I"}[kind]
    return (exif.ORIENTATION, kind, 1, struct.pack(order + letter, value))


BROKEN = {
    "a resolution that is a text": (0x011A, 2, 9, b"abcd"),
    "a value beyond the end": (0x010F, 2, 400, b"\xff\xff\xff\x7f"),
    "a count of billions": (0x0110, 5, 0xFFFFFFFF, b"\x08"),
    "an unknown type": (0x0131, 999, 1, b"1234"),
    "a directory that is this one": (CAMERA, 4, 1, struct.pack("<I", 8)),
    "a directory that is nowhere": (PLACE, 4, 1, struct.pack("<I", 1 << 30)),
    "no value": (0x8298, 2, 0, b""),
}


@pytest.mark.parametrize("kind", [1, 3, 4])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("broken", BROKEN)
def test_the_orientation_is_read_beside_any_broken_tag(broken, order, kind):
    for entries in ([BROKEN[broken], _turned(order, kind)], [_turned(order, kind), BROKEN[broken]]):
        tags = exif.parse(b"Exif\0\0" + _block(*entries, order=order))
        assert exif.number(tags[IMAGE][exif.ORIENTATION]) == 6


@pytest.mark.parametrize("value", [0, 9, 6000])
def test_an_orientation_that_does_not_exist_turns_nothing(tmp_path, value):
    Image.new("L", (9, 5)).save(tmp_path / "a.png", exif=_block(_turned("<", 3, value)))
    assert load_photo(tmp_path / "a.png").shape == (5, 9, 3)


def test_what_is_no_exif_has_no_tags():
    for block in (b"", b"II", b"junk" * 9, b"II*\0\xff\xff\xff\xff", b"MM\0\x2b", _block()[:9]):
        assert not any(exif.parse(block).values())


def test_tags_of_every_directory_come_back_from_the_bytes_that_hold_them():
    tags = {
        IMAGE: {0x010F: exif.text("A maker"), 0x011A: Tag(exif.RATIONAL, struct.pack("<II", 300, 1))},
        CAMERA: {0x9003: exif.text("1950:01:01 12:00:00"), 0x829A: Tag(exif.RATIONAL, struct.pack("<II", 1, 125))},
        PLACE: {1: exif.text("N"), 2: Tag(exif.RATIONAL, struct.pack("<6I", 48, 1, 8, 1, 5, 2))},
        INTEROP: {1: exif.text("R98")},
    }
    block = exif.to_bytes(tags)
    assert exif.parse(block) == tags
    image = Image.new("L", (3, 3))
    out = io.BytesIO()
    image.save(out, "JPEG", exif=block)
    found = Image.open(out).getexif()  # as others read it
    assert found[ExifTags.Base.Make] == "A maker"
    assert found.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] == 1 / 125
    assert found.get_ifd(ExifTags.IFD.GPSInfo)[2] == (48, 8, 2.5)


def test_both_byte_orders_say_the_same():
    values = {0x011A: (5, struct.pack("<II", 300, 7)), 0x0100: (3, struct.pack("<3H", 1, 2, 770))}
    tags = {number: Tag(*value) for number, value in values.items()}
    found = []
    for order in "<>":
        head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
        found.append(exif.parse(head + exif.directory(tags, 8, order))[IMAGE])
    assert found[0] == found[1] == tags


def test_numbers_of_bigtiff_become_those_of_tiff_or_are_left_out():
    tags = {1: Tag(exif.LONG8, struct.pack("<Q", 70000)), 2: Tag(exif.LONG8, struct.pack("<Q", 1 << 40))}
    assert exif.parse(exif.to_bytes({IMAGE: tags}))[IMAGE] == {1: Tag(exif.LONG, struct.pack("<I", 70000))}


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("carrier", fuzz_exif.CARRIERS)
def test_every_turn_of_every_carrier_is_undone(tmp_path, carrier, turn):
    (tmp_path / "a").write_bytes(fuzz_exif.carrier(carrier, random.Random(turn), turn))
    assert fuzz_exif.is_upright(load_photo(tmp_path / "a"))
    assert fuzz_exif.is_upright(files.read(tmp_path / "a").pixels)


def test_a_sample_of_random_exif_turns_loses_and_ends_nothing(tmp_path, times, seed):
    """`make fuzz-exif` takes three thousand."""
    (tmp_path / "photos").mkdir()
    assert not fuzz_exif.check(fuzz_exif.write(tmp_path / "photos", 10 * times, seed), tmp_path)
