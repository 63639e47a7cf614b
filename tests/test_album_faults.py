# SPDX-License-Identifier: Apache-2.0
"""A fault in one photograph, whatever it is and wherever it happens, is a sentence, and the others are coloured."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coltran import colorize, score
from coltran.photo import files, results
from coltran.pipeline import Pipeline
from tests.tiny_training import write_photo

OTHERS = [KeyError(40965), torch.OutOfMemoryError("CUDA out of memory")]


@pytest.fixture
def here(networks_dir, tmp_path, monkeypatch):
    """A working directory with networks and an album of five photographs, of which the third is 21 pixels wide."""
    (tmp_path / "networks").symlink_to(networks_dir)
    for n in range(5):
        write_photo(tmp_path / "album" / f"p{n}.png", n, 20, 21 if n == 2 else 20)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _failing(function, error: Exception, at: int = 0):
    """The function, but it raises where it is given the third photograph."""

    def call(*arguments, **options):
        given = arguments[at]
        if (
            "p2" in str(getattr(given, "photo", given))
            or np.shape(given)[1:2] == (21,)
            or getattr(given, "width", 0) == 21
        ):
            raise error
        return function(*arguments, **options)

    return call


STEPS = {
    "opening": (files, "decode", 0),
    "reading": (files, "of_image", 0),
    "knowing what it was": (results, "digest_of", 0),
    "its luminance": (Pipeline, "look", 1),
    "a file's bytes": (files, "encode", 0),
    "writing": (results, "write_coloring", 0),
    "the sheet": (results, "sheet_of", None),
}


@pytest.mark.parametrize(
    ("step", "error"),
    [(step, MemoryError()) for step in STEPS] + [("its luminance", error) for error in OTHERS],
    ids=lambda one: one if isinstance(one, str) else type(one).__name__,
)
def test_a_fault_in_one_photograph_leaves_the_others(here, monkeypatch, capsys, step, error):
    where, name, at = STEPS[step]
    function = getattr(where, name)
    if at is None:

        def call(tiles):
            if tiles[0][1].shape[1] == 21:
                raise error
            return function(tiles)

        monkeypatch.setattr(where, name, call)
    else:
        monkeypatch.setattr(where, name, _failing(function, error, at))
    code = colorize.main(["album", "-o", "out", "--checkpoint", "networks", "--stage", "coarse"])
    told = capsys.readouterr()
    assert code == 1
    (problem,) = told.err.splitlines()
    assert "p2.png" in problem and problem.endswith(".")
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        assert "too little memory" in problem
    assert len([path for path in Path("out").glob("p*-0.png") if "p2" not in path.name]) == 4


def test_a_contact_sheet_that_fails_costs_nothing_else(here, monkeypatch, capsys):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(results, "stack_sheets", fail)
    assert colorize.main(["album", "-o", "out", "--checkpoint", "networks", "--stage", "coarse"]) == 1
    assert "contact_sheet.png is not written: there is too little memory" in capsys.readouterr().err
    assert len(list(Path("out").glob("*-0.png"))) == 5


def test_a_fault_while_one_photograph_is_scored_leaves_the_others(here, monkeypatch, capsys):
    monkeypatch.setattr(score, "score", _failing(score.score, RuntimeError("of a library"), 1))
    assert score.main(["album", "--checkpoint", "networks"]) == 1
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 4 and "p2.png is not scored: an error in the program" in told.err


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_scan_that_the_memory_cannot_hold_leaves_the_others(here, capsys):
    Image.new("1", (15_000, 10_000)).save("album/p2.png")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), limits[1]))
    try:
        code = colorize.main(["album", "-o", "out", "--checkpoint", "networks", "--stage", "coarse"])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert code == 1
    (problem,) = capsys.readouterr().err.splitlines()
    assert re.search(r"p2.png has 150 megapixels and needs about [\d.]+ GB of memory: [\d.]+ are free.", problem)
    assert len(list(Path("out").glob("p*-0.png"))) == 4
