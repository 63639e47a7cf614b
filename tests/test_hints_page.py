# SPDX-License-Identifier: Apache-2.0
"""Every command and the Python example of docs/hints.md run, one after another, with tiny networks."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import coltran
from coltran import colorize, score
from tests.tiny import tiny_pipeline

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "hints.md").read_text(encoding="utf-8")
PROGRAMS = {"coltran.colorize": colorize, "coltran.score": score}


@pytest.fixture
def here(tmp_path, monkeypatch):
    tiny = tiny_pipeline()
    for module in (coltran, *PROGRAMS.values()):
        monkeypatch.setattr(module, "from_pretrained", lambda folder=None: tiny)
    (tmp_path / "coltran").symlink_to(ROOT / "coltran")
    monkeypatch.chdir(tmp_path)


def test_the_commands_run_one_after_another(here):
    commands = [shlex.split(line)[2:] for line in re.findall(r"^    (python -m .*)$", PAGE, re.MULTILINE)]
    assert [program for program, *_ in commands] == ["coltran.colorize"] * 4 + ["coltran.score"] * 2
    for program, *arguments in commands:
        assert PROGRAMS[program].main(arguments) == 0


def test_the_python_example_runs(here):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(example, {})


def test_every_picture_is_there():
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", PAGE)
    assert len(pictures) == 5
    assert all((ROOT / "docs" / picture).is_file() for picture in pictures)
