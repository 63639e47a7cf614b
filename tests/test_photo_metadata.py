# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, PngImagePlugin

from coltran.photo import exif, files, metadata
from coltran.photo.exif import IMAGE, Tag
from coltran.photo.metadata import Metadata

SAID = f"{files.OURS}: seed 0, sample 0, 3.1 bits a pixel"
KEYWORDS = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" tiff:Orientation="6">'
    b"<dc:subject><rdf:Bag><rdf:li>lake</rdf:li></rdf:Bag></dc:subject></rdf:Description></rdf:RDF></x:xmpmeta>"
)
IPTC = b"\x1c\x02\x19\0\x04lake\x1c\x02\x78\0\x07A lake."
CAPTION = "Grandmother at the lake, 1932"


def _tagged(folder: Path, suffix: str) -> Path:
    """A photograph with all that its format can say."""
    path = folder / f"tagged{suffix}"
    tags = {0x010E: exif.text(CAPTION), 0x8298: exif.text("© Zoë"), exif.SOFTWARE: exif.text("A scanner")}
    kept = Metadata(
        {IMAGE: tags}, KEYWORDS, IPTC, b"scanned by hand", {"Title": CAPTION, "Author": "Zoë Ω"}, (300, 300)
    )
    files.write(np.zeros((12, 16, 3), np.uint8), path, format=_format(suffix), quality=95, kept=kept)
    return path


def _format(suffix: str) -> str:
    return next(format for format, its in files.FORMATS.items() if its == suffix)


@pytest.mark.parametrize("target", files.FORMATS.values())
@pytest.mark.parametrize("source", files.FORMATS.values())
def test_what_a_photograph_says_is_said_by_its_colouring_in_every_format(tmp_path, source, target):
    photo = files.read(_tagged(tmp_path, source))
    path = tmp_path / f"out{target}"
    files.write(photo.pixels, path, format=_format(target), quality=95, kept=photo.metadata, description=SAID)
    with Image.open(path) as image:
        found, info = image.getexif(), image.info
        xmp = exif.xmp(image, exif.of_image(image))
        dpi = info.get("dpi") or (found[ExifTags.Base.XResolution], found[ExifTags.Base.YResolution])
        assert metadata.said_of(image) == SAID
    assert found[ExifTags.Base.ImageDescription] == CAPTION
    assert "© Zoë".encode() in path.read_bytes()
    assert found[ExifTags.Base.Software] == "A scanner"
    assert b"<rdf:li>lake</rdf:li>" in xmp and b'tiff:Orientation="1"' in xmp
    assert [round(value) for value in dpi] == [300, 300]
    again = files.read(path).metadata
    assert again.iptc == IPTC
    if target in (".jpg", ".png") and source in (".jpg", ".png"):
        assert b"scanned by hand" in (again.comment, again.texts.get("Comment", "").encode())
    if source == target == ".png":
        assert again.texts["Title"] == CAPTION and again.texts["Author"] == "Zoë Ω"


def test_what_an_earlier_colouring_said_of_itself_gives_way_to_what_this_one_says(tmp_path):
    path = _tagged(tmp_path, ".png")
    for seed in range(3):
        photo = files.read(path)
        files.write(
            photo.pixels, path, format="png", quality=95, kept=photo.metadata, description=f"{files.OURS}: {seed}"
        )
    assert files.said_by_us(path) == f"{files.OURS}: 2"
    assert path.read_bytes().count(files.OURS.encode()) == 2  # in XMP and in a text


def test_a_description_of_earlier_versions_was_ours(tmp_path):
    tags = Image.Exif()
    tags[ExifTags.Base.ImageDescription] = SAID
    Image.new("L", (9, 9)).save(tmp_path / "a.jpg", exif=tags)
    assert files.said_by_us(tmp_path / "a.jpg") == SAID
    assert exif.DESCRIPTION not in files.read(tmp_path / "a.jpg").metadata.directories[IMAGE]


@pytest.mark.parametrize("order", "<>")
def test_iptc_that_a_tiff_stores_as_numbers_is_kept(tmp_path, order):
    padded = IPTC.ljust(-(-len(IPTC) // 4) * 4, b"\0")
    Image.new("L", (8, 8)).save(tmp_path / "a.tif")
    tags = exif.parse((tmp_path / "a.tif").read_bytes())[IMAGE] | {exif.IPTC: Tag(exif.LONG, padded)}
    data = (tmp_path / "a.tif").read_bytes()
    data = data[:4] + struct.pack("<I", len(data)) + data[8:] + exif.directory(tags, len(data))
    (tmp_path / "a.tif").write_bytes(data)
    assert files.read(tmp_path / "a.tif").metadata.iptc == padded


def _ratio(over: int, under: int) -> Tag:
    return Tag(exif.RATIONAL, struct.pack("<II", over, under))


@pytest.mark.parametrize(
    "tags",
    [
        {0x011A: exif.text("word"), 0x011B: exif.text("word")},
        {0x011A: _ratio(0, 1), 0x011B: _ratio(300, 1)},
        {0x011A: _ratio(300, 0), 0x011B: _ratio(300, 0)},
        {0x011A: _ratio(300, 1)},
        {0x011A: _ratio(1, 1), 0x011B: _ratio(1, 1), 0x0128: Tag(exif.SHORT, b"\1\0")},
    ],
)
def test_a_resolution_without_sense_is_none(tmp_path, tags):
    Image.new("L", (9, 9)).save(tmp_path / "a.webp", exif=exif.to_bytes({IMAGE: tags}))
    assert files.read(tmp_path / "a.webp").metadata.dpi is None


def test_centimetres_are_read_as_inches(tmp_path):
    made = Image.Exif()
    made[0x011A], made[0x011B], made[0x0128] = 100.0, 100.0, 3
    Image.new("L", (9, 9)).save(tmp_path / "a.webp", exif=made)
    assert files.read(tmp_path / "a.webp").metadata.dpi == (254, 254)


@pytest.mark.parametrize("junk", [b"\0\xff junk", b"<x:xmpmeta>words</x:xmpmeta>", "<a/>".encode("utf-16")])
def test_xmp_that_is_none_costs_nothing(tmp_path, junk):
    Image.new("L", (9, 9)).save(tmp_path / "a.jpg", xmp=junk)
    photo = files.read(tmp_path / "a.jpg")
    files.write(photo.pixels, tmp_path / "b.jpg", format="jpeg", quality=95, kept=photo.metadata, description=SAID)
    assert files.said_by_us(tmp_path / "b.jpg") == SAID


def test_texts_without_end_do_not_lose_a_photograph(tmp_path):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Comment", "x" * 3_000_000, zip=True)  # more than Pillow unfolds
    Image.new("L", (9, 5)).save(tmp_path / "a.png", pnginfo=texts)
    assert files.read(tmp_path / "a.png").pixels.shape == (5, 9, 3)
