# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from bench import chroma
from tests.tiny import tiny_pipeline
from tests.tiny_training import write_photos


@pytest.mark.parametrize(("networks", "columns"), [([], ["from 4"]), (["--networks"], ["coarse", "color", "final"])])
def test_every_way_is_measured_in_a_column_for_each_source(tmp_path, monkeypatch, capsys, networks, columns):
    monkeypatch.setattr(chroma.coltran, "from_pretrained", tiny_pipeline)
    write_photos(tmp_path, 2)
    monkeypatch.setattr(sys, "argv", ["chroma", str(tmp_path), "--side", "4", *networks])
    chroma.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["photographs"] == 2 and list(found["ab"]) == columns
    ways = {f"{space}, {way}" for space in chroma.SPACES for way in chroma.ENLARGEMENTS}
    assert all(set(of) == ways | {"gray", "recolour", "recolour, without specks"} for of in found["ab"].values())


@pytest.mark.parametrize("space", chroma.SPACES)
def test_every_space_is_left_as_it_was_entered(space):
    into, back = chroma.SPACES[space]
    rgb = np.random.default_rng(0).random((8, 8, 3))
    np.testing.assert_allclose(back(into(rgb)), rgb, atol=1 / 255)


@pytest.mark.parametrize("way", chroma.ENLARGEMENTS)
def test_colours_that_are_the_same_everywhere_stay_so(way):
    small = np.full((4, 4, 2), 0.25, np.float32)
    luma = np.random.default_rng(0).random((32, 32)).astype(np.float32)
    np.testing.assert_allclose(chroma.ENLARGEMENTS[way](small, luma), 0.25, atol=1e-4)
