# SPDX-License-Identifier: Apache-2.0
"""Files as people have them, from reports about this and other programs: each row has its right result.

The files are read from `../shared/field`; where that is absent these tests are skipped, and what they promise is shown
with files made here by the tests of `coltran.photo`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from coltran import colorize
from coltran.image import load_photo
from coltran.photo import files
from coltran.photo.recolor import luminance
from coltran.photo.view import look

FIELD = Path(__file__).resolve().parent.parent.parent / "shared" / "field"
pytestmark = pytest.mark.skipif(not FIELD.is_dir(), reason=f"{FIELD} is not here")


@pytest.fixture
def coloured(networks_dir, tmp_path, monkeypatch):
    """Colours files of the field, and gives the results of each."""
    monkeypatch.chdir(tmp_path)

    def run(*names: str, code: int = 0, options: tuple[str, ...] = ()) -> dict[str, list[Path]]:
        named = [str(FIELD / name) for name in names]
        arguments = [*named, "-o", "out", "--checkpoint", str(networks_dir), "--stage", "coarse", *options]
        assert colorize.main(arguments) == code
        record = json.loads(Path("out/colourings.json").read_text())
        return {key: [Path("out", one["file"]) for one in said["colourings"]] for key, said in record.items()}

    return run


def _one(results: dict[str, list[Path]]) -> Path:
    ((path,),) = results.values()
    return path


@pytest.mark.parametrize(
    ("name", "levels"),
    [("moose_60_195.png", (60, 195)), ("tulips_80_180.png", (80, 180)), ("fjord_30_225.png", (30, 225))],
)
def test_a_faded_print_is_seen_at_full_range_and_keeps_its_luminance(coloured, name, levels):
    photo = files.read(FIELD / name).pixels
    view = look(photo, fit="stretch", low=64, high=256, levels="auto", border="auto")
    low, high = levels
    assert np.ptp(view.gray_high.astype(int)) >= 200
    assert view.levels.gain >= 0.95 * 203 / (high - low)
    found = np.asarray(Image.open(_one(coloured(name))).convert("RGB"))
    assert np.abs(luminance(found) - luminance(photo)).max() <= 0.5 + 1e-3


def test_a_faded_print_is_restored_where_that_is_asked_for(coloured):
    found = np.asarray(Image.open(_one(coloured("moose_60_195.png", options=("--levels", "restore")))).convert("L"))
    assert np.percentile(found, 1) < 30 and np.percentile(found, 99) > 215


def test_the_border_of_a_toned_print_stays_neutral(coloured):
    photo = files.read(FIELD / "sepia_border.jpg").pixels
    view = look(photo, fit="stretch", low=64, high=256, levels="auto", border="auto")
    assert (view.left, view.top, *view.photo.shape[:2]) == (60, 50, 450, 600)
    path = _one(coloured("sepia_border.jpg", options=("--format", "png")))
    found = np.asarray(Image.open(path)).astype(int)
    assert np.ptp(found[:40], axis=-1).max() == np.ptp(found[:, :50], axis=-1).max() == 0
    assert np.ptp(found[100:400, 100:600], axis=-1).mean() > 5


@pytest.mark.parametrize("name", ["xres_ascii_orient6.jpg", "badifd_orient6.jpg"])
def test_broken_exif_turns_nothing_sideways(coloured, name):
    stored = np.asarray(Image.open(FIELD / name).convert("RGB"))
    np.testing.assert_array_equal(load_photo(FIELD / name), np.rot90(stored, -1))
    assert load_photo(_one(coloured(name))).shape[:2] == stored.shape[1::-1]


def test_bigtiff_is_coloured(coloured):
    assert load_photo(_one(coloured("bigtiff.tif"))).shape == (240, 320, 3)


@pytest.mark.parametrize("format", files.FORMATS)
@pytest.mark.parametrize("name", ["scan300.jpg", "scan300.png"])
def test_the_resolution_of_a_scan_is_kept(coloured, name, format):
    with Image.open(_one(coloured(name, options=("--format", format)))) as image:
        dpi = image.info.get("dpi") or [image.getexif()[tag] for tag in (0x011A, 0x011B)]
    assert [round(float(value)) for value in dpi] == [300, 300]


def test_captions_keywords_comments_and_texts_are_kept(coloured):
    results = coloured("tagged.jpg", "tagged.png")
    with Image.open(results[str(FIELD / "tagged.jpg")][0]) as image:
        tags = image.getexif()
        assert tags[ExifTags.Base.ImageDescription] == "Grandmother at the lake, 1932"
        assert tags[ExifTags.Base.Artist] == "Uncle Joe"
        assert image.info["comment"] == b"scanned by hand"
        assert b"<rdf:li>grandmother</rdf:li>" in image.info["xmp"]
        assert b"Grandmother at the lake" in image.info["photoshop"][0x0404]
    path = results[str(FIELD / "tagged.png")][0]
    with Image.open(path) as image:
        assert image.text["Title"] == "Grandmother 1932" and "keywords" in image.text["XML:com.adobe.xmp"]
    assert files.said_by_us(path).startswith(files.OURS)


def test_two_albums_into_one_folder_are_both_kept(coloured):
    coloured("albums/a")
    results = coloured("albums/b")
    assert len({path for paths in results.values() for path in paths}) == 2
    shapes = [load_photo(paths[0]).shape for paths in results.values()]
    assert shapes == [load_photo(key).shape for key in results]


def test_subfolders_stay(coloured):
    found = coloured("albums")
    assert sorted(path.as_posix() for paths in found.values() for path in paths) == [
        "out/a/img-0.jpg",
        "out/b/img-0.jpg",
    ]


def test_the_first_of_several_pages_is_said_and_all_are_coloured_where_asked(coloured, capsys):
    _one(coloured("three_pages.tif"))
    assert "has 3 pages, and the first is coloured: --pages all colours each." in capsys.readouterr().err
    shutil.rmtree("out")
    assert len(coloured("three_pages.tif", options=("--pages", "all"))) == 3
    assert "the first is coloured" not in capsys.readouterr().err


def test_a_thumbnail_in_front_is_skipped(coloured):
    assert load_photo(_one(coloured("thumb_first.tif"))).shape == (240, 320, 3)


def test_a_jpeg_without_its_last_bytes_is_coloured_and_that_is_said(coloured, capsys):
    assert load_photo(_one(coloured("prog_few_missing.jpg"))).shape[2] == 3
    assert "prog_few_missing.jpg is cut off" in capsys.readouterr().err


def test_strict_refuses_a_jpeg_without_its_last_bytes(coloured, capsys):
    coloured("prog_few_missing.jpg", "moose_60_195.png", code=1, options=("--strict",))
    assert "without --strict it is coloured" in capsys.readouterr().err


def test_a_scan_of_one_bit_is_said(coloured, capsys):
    coloured("halftone1.png")
    assert "halftone1.png is a scan of one bit" in capsys.readouterr().err
