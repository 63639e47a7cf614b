# SPDX-License-Identifier: Apache-2.0
"""A sample of `make fuzz`: damaged files give a result or a sentence."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from coltran.image import PhotoError
from tests import fuzz

ROOT = Path(__file__).resolve().parent.parent


def test_damaged_files_give_a_result_or_a_sentence(tmp_path):
    options = ["--cases", "250", "--seed", "1", "--keep", str(tmp_path)]
    command = [sys.executable, str(ROOT / "tests" / "fuzz.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert all(sum(report[kind].values()) == 50 and report[kind]["sentence"] > 5 for kind in fuzz.READERS)


def test_damage_is_the_same_every_time_and_changes_the_file():
    data = bytes(range(256)) * 4
    damaged = [fuzz.mutate(data, random.Random(number)) for number in range(200)]
    assert damaged == [fuzz.mutate(data, random.Random(number)) for number in range(200)]
    assert sum(one != data for one in damaged) > 180


def _raising(error: Exception):
    def read(path: Path) -> None:
        raise error

    return read


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (PhotoError("One sentence."), "sentence"),
        (PhotoError("Two\nlines."), "no clear sentence"),
        (PhotoError("\x1b[2J"), "no clear sentence"),
        (IndexError("a bug"), "Traceback"),
        (MemoryError(), "Traceback"),
    ],
)
def test_what_is_no_sentence_fails(monkeypatch, tmp_path, error, verdict):
    monkeypatch.setitem(fuzz.READERS, "image", _raising(error))
    assert fuzz.judge("image", tmp_path).startswith(verdict)


def test_a_reader_that_hangs_or_dies_is_found(monkeypatch, tmp_path):
    """In a process of its own, as judging forks."""
    code = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from tests import fuzz
fuzz.SECONDS = 2
made = fuzz.make(Path({str(tmp_path)!r}) / "made")
fuzz.READERS["image"] = lambda path: time.sleep(60)
fuzz.READERS["records"] = lambda path: os.abort()
print([verdict for _, _, verdict in fuzz.judgements(range(5), 0, made, Path({str(tmp_path)!r}) / "case")])
"""
    (tmp_path / "made").mkdir()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "takes over 2 s" in done.stdout and "dies by signal 6" in done.stdout, done.stderr
