# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import album
from coltran import checkpoint, networks
from coltran.errors import UserError
from tests.tiny import colorizer_config
from tests.tiny_training import write_photo, write_photos


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    checkpoint.save(networks.build(colorizer_config(8, 8)), tmp_path / "networks" / "colorizer")
    return write_photos(tmp_path / "photos", 3)


def test_both_sides_are_timed_and_their_ratio_told(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    networks_of = str(photos.parent / "networks")
    options = ["--batch", "2", "--count", "3", "--stage", "coarse", "--rounds", "3", "--checkpoint", networks_of]
    assert album.main([str(photos), *options]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["photographs"] == 3
    one, together = found["seconds"]["one at a time"], found["seconds"]["2 together"]
    assert found["ratio"] == {kind: pytest.approx(one[kind] / together[kind]) for kind in ("clock", "processor")}


def test_other_pixels_are_noticed(tmp_path: Path) -> None:
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_photo(tmp_path / folder / "p-0.png", seed)
    album.check_same(tmp_path / "a", tmp_path / "b")
    with pytest.raises(UserError, match="come out differently"):
        album.check_same(tmp_path / "a", tmp_path / "c")


def test_a_photograph_that_cannot_be_coloured_ends_it(photos: Path) -> None:
    (photos / "p00.png").write_text("no image")
    with pytest.raises(UserError, match=r"p00\.png"):
        album.main([str(photos), "--stage", "coarse", "--checkpoint", str(photos.parent / "networks")])
