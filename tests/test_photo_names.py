# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path, PurePath

import numpy as np
import pytest
from PIL import Image

from coltran import colorize
from coltran.photo.names import name_results


def _names(photos: Iterable[str], **options) -> list[str]:
    return [job.name for job in name_results({Path(photo): PurePath() for photo in photos}, **options)]


def test_names_that_are_taken_get_a_number():
    assert _names(["a/cat.png", "b/cat.jpg", "b/CAT.tif", "cat_2.png"]) == ["cat", "cat_2", "CAT_3", "cat_2_2"]


def test_subfolders_stay():
    photos = {Path("album/x/cat.png"): PurePath("x"), Path("album/y/z/cat.png"): PurePath("y/z")}
    assert [job.name for job in name_results(photos)] == ["x/cat", "y/z/cat"]


def test_each_page_has_a_name():
    found = name_results(
        {Path("scan.tif"): PurePath("x"), Path("b.tif"): PurePath()},
        pages={Path("scan.tif"): [0, 2], Path("b.tif"): [1]},
    )
    assert [(job.name, job.key, job.page) for job in found] == [
        ("x/scan-p1", "scan.tif#1", 0),
        ("x/scan-p2", "scan.tif#3", 2),
        ("b", "b.tif", None),
    ]


@pytest.fixture
def here(networks_dir, tmp_path, monkeypatch):
    """A working directory with networks, and two albums of a photograph of the same name each."""
    (tmp_path / "networks").symlink_to(networks_dir)
    monkeypatch.chdir(tmp_path)
    for n, folder in enumerate(("a", "b")):
        (tmp_path / folder).mkdir()
        _photo(n).save(tmp_path / folder / "img.png")
    return tmp_path


def _photo(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8))


def _run(*arguments: str) -> list[str]:
    """Colours, and tells which results are there."""
    assert colorize.main([*arguments, "-o", "out", "--checkpoint", "networks", "--stage", "coarse", "--quiet"]) == 0
    return sorted(path.relative_to("out").as_posix() for path in Path("out").rglob("*-0.*"))


def _made(*files: str) -> list[tuple[bytes, int]]:
    return [(Path("out", file).read_bytes(), Path("out", file).stat().st_mtime_ns) for file in files]


def test_a_second_album_gets_names_of_its_own(here):
    assert _run("a") == ["img-0.png"]
    first = _made("img-0.png")
    assert _run("b") == ["img-0.png", "img_2-0.png"]
    assert _made("img-0.png") == first
    record = json.loads(Path("out/colourings.json").read_text())
    assert {key: said["colourings"][0]["file"] for key, said in record.items()} == {
        "a/img.png": "img-0.png",
        "b/img.png": "img_2-0.png",
    }


def test_a_rerun_of_an_album_finds_its_own_results(here):
    for album in ("a", "b"):
        _run(album)
    before = _made("img-0.png", "img_2-0.png")
    for album in ("b", "a"):
        _run(album, "--skip-existing")
    assert _made("img-0.png", "img_2-0.png") == before


def test_albums_of_one_name_in_different_places_are_two(here, monkeypatch):
    for folder in ("a", "b"):
        (here / folder / "album").mkdir()
        (here / folder / "img.png").rename(here / folder / "album" / "img.png")
        monkeypatch.chdir(here / folder)
        options = ["--checkpoint", "../networks", "--stage", "coarse", "--quiet", "-o", "../out"]
        assert colorize.main(["album", *options]) == 0
    record = json.loads(Path("../out/colourings.json").read_text())
    assert len(record) == 2 and len({said["colourings"][0]["file"] for said in record.values()}) == 2


def test_a_photograph_that_was_changed_keeps_its_name(here):
    _run("a")
    _photo(7).save("a/img.png")
    before = _made("img-0.png")
    assert _run("a", "--skip-existing") == ["img-0.png"]
    assert _made("img-0.png") != before


def test_an_album_that_was_moved_finds_its_results_and_a_copy_of_it_gets_its_own(here):
    _run("a")
    Path("a").rename("c")
    assert _run("c") == ["img-0.png"]
    Path("d").mkdir()
    Path("d/img.png").write_bytes(Path("c/img.png").read_bytes())
    assert _run("d") == ["img-0.png", "img_2-0.png"]


def test_results_keep_their_subfolders_and_another_one_changes_no_name(here):
    Path("albums").mkdir()
    for folder in ("a", "b"):
        Path(folder).rename(f"albums/{folder}")
    assert _run("albums") == ["a/img-0.png", "b/img-0.png"]
    before = _made("a/img-0.png", "b/img-0.png")
    Path("albums/0").mkdir()
    _photo(9).save("albums/0/img.png")
    assert _run("albums", "--skip-existing") == ["0/img-0.png", "a/img-0.png", "b/img-0.png"]
    assert _made("a/img-0.png", "b/img-0.png") == before


def test_results_of_an_earlier_version_are_found_by_what_it_called_their_photograph(here):
    _run("a")
    record = json.loads(Path("out/colourings.json").read_text())
    for said in record.values():
        del said["source"]
    Path("out/colourings.json").write_text(json.dumps(record))
    before = _made("img-0.png")
    _run("a", "--skip-existing")
    assert _made("img-0.png") == before
    assert _run("b") == ["img-0.png", "img_2-0.png"]
