# SPDX-License-Identifier: Apache-2.0
"""The program that scores colourings and asks for hints, run with tiny random networks."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coltran import cli, colorize, loading, score
from coltran.sampling.assess import assess
from tests.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def tiny():
    return tiny_pipeline()


@pytest.fixture
def here(networks_dir, tmp_path, monkeypatch):
    """A working folder with two photographs; without --checkpoint, the tiny networks are used."""
    monkeypatch.setattr(loading, "PRETRAINED", networks_dir)
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a.png", "b.png")):
        pixels = np.random.default_rng(seed).integers(0, 256, (12, 15, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(name)
    return tmp_path


def test_the_bits_are_those_of_the_colours_that_the_photograph_has(here, tiny):
    view = tiny.look("a.png")
    bits, picture = score.score(tiny, Path("a.png"))
    assert bits == pytest.approx(assess(tiny.colorizer, view, [view.labels()]).bits_per_pixel[0])
    assert picture.shape == (12, 15, 3)


def test_a_drawn_colouring_has_the_labels_that_were_drawn(tiny):
    photo = np.random.default_rng(3).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    drawn = tiny(photo, stage="coarse", size="network")
    np.testing.assert_array_equal(tiny.look(drawn.images[0], levels="keep").labels(), drawn.labels[0])


def test_sixteen_bits_of_gray_are_scored_as_eight(tiny):
    gray = np.random.default_rng(3).integers(0, 256, (9, 14), dtype=np.uint8)
    fine = tiny.look(gray.astype(np.uint16) * 257)
    np.testing.assert_array_equal(fine.labels(), tiny.look(gray).labels())


def test_colourings_are_ranked_the_likeliest_first_and_maps_written_where_a_folder_is_named(here, capsys):
    assert score.main(["a.png", "b.png", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted(path.name for path in here.glob("*")) == ["a.png", "b.png"]
    bits = [one["bits_per_pixel"] for one in found]
    assert bits == sorted(bits)
    assert {one["photo"] for one in found} == {"a.png", "b.png"}
    assert score.main(["a.png", "b.png", "-o", "out"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"{one['bits_per_pixel']:9.4f} bits a pixel  {one['photo']}" for one in found]
    assert sorted(path.name for path in Path("out").iterdir()) == ["a-surprise.png", "b-surprise.png"]


def test_a_parent_of_the_working_directory_is_scored_whole(here, monkeypatch, capsys):
    Path("album/mine").mkdir(parents=True)
    for name in ("album/a.png", "album/mine/b.png"):
        Image.new("RGB", (9, 8)).save(name)
    monkeypatch.chdir("album/mine")
    assert score.main(["..", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2


def test_asking_names_three_places_with_colours_to_hint(here, capsys):
    assert score.main(["--ask", "a.png", "-o", "out", "--samples", "16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"a\.png: \d\.\d\d bits of entropy a pixel", lines[0])
    for number, line in enumerate(lines[1:], 1):
        found = re.match(rf"  {number}\. --hint (\d+),(\d+),#RRGGBB is worth -?[\d.]+ bits: #[0-9a-f]{{6}} \d+%", line)
        assert 0 <= int(found[1]) < 15 and 0 <= int(found[2]) < 12
    assert len(lines) == 4
    assert [path.name for path in Path("out").iterdir()] == ["a-entropy.png"]


def test_what_is_known_already_is_imposed_on_what_is_asked(here, tiny):
    known = cli.hint("7,5,#ff0000")
    found, _ = score.ask_about(tiny, Path("a.png"), hints=[known], samples=16)
    other, _ = score.ask_about(tiny, Path("a.png"), samples=16)
    assert found != other


def test_bad_files_are_reported_and_the_rest_is_scored(here, capsys):
    Path("c.png").write_text("not an image")
    assert score.main(["c.png", "a.png", "missing.png"]) == 1
    told = capsys.readouterr()
    assert told.out.endswith("bits a pixel  a.png\n")
    assert told.err.splitlines() == ["missing.png does not exist.", "c.png is not an image that can be read."]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ([], 2, "the following arguments are required"),
        (["a.png", "--ask", "--samples", "3"], 2, "'3' is not a whole number from 16"),
        (["a.png", "--seed", "0"], 2, "are for --ask"),
        (["a.png", "--hint", "1,1,#ff0000"], 2, "are for --ask"),
        (["a.png", "--ask", "--hint", "red"], 2, "'red' is not a hint such as"),
        (["a.png", "--ask", "--samples", "16", "--hint", "99,0,#ffffff"], 1, "The hint at 99,0 lies outside"),
        (["a.png", "-o", "b.png"], 1, "b.png cannot be written"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(here, program, capsys, arguments, code, sentence):
    assert program(score.main, *arguments) == code
    assert sentence in capsys.readouterr().err


def test_a_map_replaces_no_photograph(here, capsys):
    photo = Path("a.png").read_bytes()
    Path("a-surprise.png").write_bytes(photo)
    assert score.main(["a.png", "a-surprise.png", "-o", "."]) == 1
    assert Path("a-surprise.png").read_bytes() == photo
    assert "would replace a-surprise.png" in capsys.readouterr().err


def test_a_hint_outside_one_photograph_keeps_none_from_being_told(here, capsys):
    Image.new("L", (400, 300), 90).save("wide.png")
    code = score.main(["a.png", "wide.png", "--ask", "--samples", "16", "--hint", "350,10,#ffffff"])
    told = capsys.readouterr()
    assert code == 1 and "wide.png" in told.out and "lies outside" in told.err


def test_colourings_in_the_output_folder_are_scored_and_sheets_and_maps_are_not(here, capsys):
    colorize.main(["a.png", "-o", "out", "--samples", "2", "--quiet"])
    for _ in range(2):
        capsys.readouterr()
        assert score.main(["out", "-o", "out"]) == 0
        told = [line.split()[-1] for line in capsys.readouterr().out.splitlines()]
        assert sorted(told) == ["out/a-0.png", "out/a-1.png"]
