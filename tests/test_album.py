# SPDX-License-Identifier: Apache-2.0
"""Which photographs of a folder are drawn together."""

from __future__ import annotations

from pathlib import PurePath

import pytest

from coltran import album
from coltran.image import list_photos
from coltran.pipeline import Pipeline
from tests.tiny import tiny_pipeline
from tests.tiny_training import write_photo


@pytest.mark.parametrize(("room", "expected"), [(10**6, [3, 2]), (1000, [3, 2]), (800, [2, 2, 1]), (1, [1] * 5)])
def test_large_photographs_are_drawn_a_few_at_a_time(tmp_path, monkeypatch, room, expected):
    for n in range(6):
        write_photo(tmp_path / "photos" / f"p{n}.png", n, 20, 20)
    (tmp_path / "photos" / "p1.png").write_text("no image")
    drawn = []
    colorize = Pipeline.colorize

    def watch(self, images, *arguments, **options):
        drawn.append(len(images))
        return colorize(self, images, *arguments, **options)

    monkeypatch.setattr(Pipeline, "colorize", watch)
    monkeypatch.setattr(album, "ROOM", room)
    drawing = {"seed": 0, "stage": "coarse", "fit": "stretch", "size": "original"}
    (tmp_path / "out").mkdir()
    photos = dict.fromkeys(list_photos([tmp_path / "photos"]), PurePath())
    _, (problem,) = album.color_album(tiny_pipeline(), photos, tmp_path / "out", drawing=drawing, batch=3)
    assert drawn == expected and "p1.png" in problem
