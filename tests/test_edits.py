# SPDX-License-Identifier: Apache-2.0
"""Edits on the command line: they reach the pipeline, and what cannot be meant is one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coltran import colorize
from coltran.photo.hints import Box, Hint
from coltran.photo.variety import choose_diverse, differences
from tests.tiny import tiny_pipeline

DRAWN = {"top_p": 0.9}
HINTS = [Hint(3, 2, (255, 0, 0)), Hint(12, 11, (0, 0, 255))]
FLAGS = ["--hint", "3,2,#ff0000", "--hint", "12,11,#0000ff"]


@pytest.fixture(scope="module")
def tiny():
    return tiny_pipeline()


@pytest.fixture
def here(tiny, tmp_path, monkeypatch):
    """A working folder with a photograph; without --checkpoint, the tiny networks are used."""
    monkeypatch.setattr(colorize, "from_pretrained", lambda folder: tiny)
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 15, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("cat.png")
    return tmp_path


def written(count, folder="out"):
    return [np.asarray(Image.open(f"{folder}/cat-{k}.png")) for k in range(count)]


def likeliest_first(found):
    return found.choose(sorted(range(len(found.images)), key=lambda s: -found.log_prob[s]))


def test_hints_are_imposed_on_the_photograph(here, tiny):
    assert colorize.main(["cat.png", "-o", "out", "--samples", "2", *FLAGS]) == 0
    expected = likeliest_first(tiny("cat.png", samples=2, hints=HINTS, **DRAWN))
    np.testing.assert_array_equal(written(2), expected.images)
    noted = json.loads(Path("out/colourings.json").read_text())["cat.png"]
    assert noted["hints"] == ["3,2,#ff0000,0", "12,11,#0000ff,0"]


def test_a_mask_of_dabs_is_the_same_hints(here):
    mask = Image.new("RGBA", (15, 12))
    for x, y, colour, _ in HINTS:
        mask.putpixel((x, y), (*colour, 255))
    mask.save("dabs.png")
    colorize.main(["cat.png", "-o", "flags", *FLAGS])
    colorize.main(["cat.png", "-o", "mask", "--hints", "dabs.png"])
    np.testing.assert_array_equal(written(1, "flags"), written(1, "mask"))


def test_particles_say_how_many_are_effective(here, tiny, capsys):
    colorize.main(["cat.png", "-o", "out", "--samples", "3", "--particles", "8", *FLAGS])
    expected = likeliest_first(tiny("cat.png", samples=3, particles=8, hints=HINTS, **DRAWN))
    np.testing.assert_array_equal(written(3), expected.images)
    told = f"  effective sample size: at least {expected.effective:.1f} of 8 particles\n"
    assert capsys.readouterr().out.endswith(told)


def test_a_box_is_drawn_anew_and_the_rest_is_kept(here, tiny):
    flags = ["--redraw", "0,6,15,12", "--keep", "1", "--redraw-seed", "9"]
    colorize.main(["cat.png", "-o", "out", "--samples", "2", "--seed", "5", *flags])
    kept = tiny("cat.png", samples=2, seed=5, **DRAWN).labels[1]
    expected = tiny("cat.png", samples=2, seed=9, kept=kept, redraw=Box(0, 6, 15, 12), **DRAWN)
    np.testing.assert_array_equal(written(2), likeliest_first(expected).images)
    noted = json.loads(Path("out/colourings.json").read_text())["cat.png"]
    assert noted["redraw"] == {"box": [0, 6, 15, 12], "seed": 5, "sample": 1}
    assert noted["seed"] == 9


def test_particles_keep_what_was_drawn_without_them(here, tiny):
    flags = ["--redraw", "0,6,15,12", "--particles", "4"]
    colorize.main(["cat.png", "-o", "out", *flags])
    kept = tiny("cat.png", **DRAWN).labels[0]
    expected = tiny("cat.png", seed=1, particles=4, kept=kept, redraw=Box(0, 6, 15, 12), **DRAWN)
    np.testing.assert_array_equal(written(1)[0], expected.images[0])


def test_a_box_is_drawn_anew_in_a_photograph_that_is_not_opaque(here, tiny):
    Image.open("cat.png").convert("RGBA").save("cat.png")
    with Image.open("cat.png") as image:
        image.putalpha(160)
        image.save("cat.png")
    colorize.main(["cat.png", "-o", "out", "--redraw", "0,6,15,12", "--size", "network"])
    drawn = DRAWN | {"size": "network"}
    pixels = np.asarray(Image.open("cat.png").convert("RGB"))
    kept = tiny(pixels, **drawn).labels[0]
    expected = tiny(pixels, seed=1, kept=kept, redraw=Box(0, 6, 15, 12), **drawn)
    np.testing.assert_array_equal(written(1)[0], expected.images[0])


def test_an_earlier_run_with_other_wishes_is_not_taken_for_this_one(here, capsys):
    for flags in ([], FLAGS, FLAGS):
        colorize.main(["cat.png", "-o", "out", "--skip-existing", *flags])
    assert capsys.readouterr().out == "cat.png -> out/cat-sheet.png\n" * 2


def test_the_likeliest_stands_beside_those_that_differ_most(here, tiny):
    colorize.main(["cat.png", "-o", "out", "--samples", "6", "--diverse", "3"])
    found = tiny("cat.png", samples=6, **DRAWN)
    order = choose_diverse(differences(found.images), int(np.argmax(found.log_prob)), 3)
    np.testing.assert_array_equal(written(4), found.choose(order).images)
    assert not Path("out/cat-4.png").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--hint", "red"], 2, "'red' is not a hint such as"),
        (["--hint", "15,0,#ffffff"], 1, "The hint at 15,0 lies outside of what is coloured, x 0 .. 14, y 0 .. 11."),
        (["--hint", "0,0,#ffffff", "--fit", "crop"], 1, "x 1 .. 12, y 0 .. 11"),
        (["--hints", "none.png"], 1, "none.png does not exist."),
        (["--hints", "cat.png"], 1, "cat.png has no transparency"),
        (["--redraw", "1,2,3"], 2, "'1,2,3' is not a box such as"),
        (["--redraw", "15,0,20,9"], 1, "Nothing of the photograph lies in the box 15,0,20,9."),
        (["--keep", "1"], 2, "belong to --redraw"),
        (["--particles", "8"], 2, "--particles is for"),
        (["--redraw", "0,0,9,9", "--particles", "2", "--keep", "5"], 2, "--keep 5 is none of --particles 2"),
        (["--redraw", "0,0,9,9", "--redraw-seed", str(2**64)], 2, "is not a whole number from 0 to 2**64 - 1"),
        (
            ["--particles", "2", "--samples", "3", "--hint", "1,1,#ffffff"],
            2,
            "--particles 2 are fewer than --samples 3",
        ),
        (["--diverse", "2", "--samples", "2"], 2, "--diverse 2 needs more than --samples 2"),
        (["--diverse", "1", "--best", "1", "--samples", "2"], 2, "--best and --diverse cannot be combined"),
        (["dog.png", "--hint", "1,1,#ffffff"], 2, "are for one photograph, and there are 2"),
        (["--ray", "--hint", "1,1,#ffffff"], 2, "--ray takes neither"),
    ],
)
def test_what_makes_no_sense_is_one_sentence_and_makes_nothing(here, program, capsys, arguments, code, sentence):
    Image.new("RGB", (4, 4)).save("dog.png")
    assert program(colorize.main, "cat.png", *arguments, "-o", "out") == code
    assert sentence in capsys.readouterr().err
    assert not Path("out").exists()
