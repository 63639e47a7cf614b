# SPDX-License-Identifier: Apache-2.0
"""`-` of coltran.colorize: one photograph from standard input, one to standard output."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from coltran import colorize
from coltran.console import speak
from coltran.photo import files
from tests.tiny import scene

NETWORKS = ("--checkpoint", "networks", "--stage", "coarse")


@pytest.fixture
def here(networks_dir, tmp_path, monkeypatch):
    (tmp_path / "networks").symlink_to(networks_dir)
    Image.fromarray(scene(20, 30)).save(tmp_path / "a.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    speak()


def _streams(monkeypatch, content: bytes) -> SimpleNamespace:
    """Standard input with this content; standard output, to which no text is to be written."""
    out = SimpleNamespace(buffer=io.BytesIO(), write=Mock(side_effect=AssertionError), flush=Mock(), isatty=bool)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    monkeypatch.setattr(sys, "stdout", out)
    return out


def _colour(monkeypatch, content: bytes, *arguments: str) -> bytes:
    out = _streams(monkeypatch, content)
    assert colorize.main([*arguments, *NETWORKS]) == 0
    return out.buffer.getvalue()


def test_a_photograph_from_standard_input_goes_to_standard_output(here, monkeypatch):
    content = (here / "a.jpg").read_bytes()
    found = _colour(monkeypatch, content, "-")
    (here / "out.jpg").write_bytes(found)
    assert files.read(here / "out.jpg").pixels.shape == (20, 30, 3)
    assert files.said_by_us(here / "out.jpg")
    assert _colour(monkeypatch, content, "-", "-o", "-") == found
    assert _colour(monkeypatch, b"", "a.jpg", "-o", "-") == found
    with Image.open(io.BytesIO(_colour(monkeypatch, content, "-", "--format", "png"))) as image:
        assert image.format == "PNG"


def test_the_likeliest_of_several_goes_out(here, monkeypatch):
    assert colorize.main(["a.jpg", "-o", "out", "--samples", "4", "--best", "1", "--quiet", *NETWORKS]) == 0
    found = _colour(monkeypatch, b"", "a.jpg", "-o", "-", "--samples", "4")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(found))), np.asarray(Image.open("out/a-0.jpg")))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a.jpg"], "-o/--output"),
        (["-", "-o", "out"], "writes it to standard output"),
        (["-", "a.jpg"], "-o/--output"),
        (["a.jpg", "a.jpg", "-o", "-"], "room for one photograph"),
        (["-", "--json"], "not for standard output"),
        (["-", "--samples", "3", "--best", "2"], "room for one colouring alone"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(here, capsys, arguments, sentence):
    with pytest.raises(SystemExit) as left:
        colorize.main(arguments)
    assert left.value.code == 2 and sentence in capsys.readouterr().err


def test_what_is_no_photograph_leaves_standard_output_empty(here, monkeypatch, program, capsys):
    out = _streams(monkeypatch, b"no photograph")
    assert program(colorize.main, "-", *NETWORKS) == 1
    assert out.buffer.getvalue() == b""
    assert capsys.readouterr().err == "standard input is not an image that can be read.\n"


def test_it_works_in_a_pipe_with_imagemagick(here):
    convert = shutil.which("magick") or shutil.which("convert")
    said = subprocess.run([convert, "-version"], capture_output=True, text=True).stdout if convert else ""
    if not said.startswith("Version: ImageMagick"):
        pytest.skip("ImageMagick is not here")
    made = subprocess.run([convert, "a.jpg", "-resize", "50%", "png:-"], capture_output=True, check=True).stdout
    program = [sys.executable, "-m", "coltran.colorize", "-", *NETWORKS]
    coloured = subprocess.run(program, input=made, capture_output=True, check=True).stdout
    shown = subprocess.run([convert, "-", "-format", "%m %w %h", "info:-"], input=coloured, capture_output=True)
    assert shown.stdout == b"PNG 15 10"
