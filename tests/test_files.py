# SPDX-License-Identifier: Apache-2.0
"""A file is there whole or not at all."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import pytest

from coltran.errors import UserError
from coltran.files import check_output, clear_unfinished, written_whole


def test_the_file_appears_when_the_block_succeeds(tmp_path):
    with written_whole(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
        assert not (tmp_path / "a.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(OSError, match="No space left on device: .*/a.txt"), written_whole(tmp_path / "a.txt") as file:
        file.write_text("ne")
        raise OSError(28, "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_folder_that_can_be_written_to_is_not_made_yet(tmp_path):
    check_output(tmp_path / "new" / "deep")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_permission_is_one_sentence(tmp_path):
    tmp_path.chmod(0o500)
    is_root = os.geteuid() == 0
    try:
        if is_root:  # whom nothing is forbidden
            os.seteuid(65534)
        with pytest.raises(UserError, match=r"out cannot be written: Permission denied\.$"):
            check_output(tmp_path / "out")
    finally:
        if is_root:
            os.seteuid(0)
        tmp_path.chmod(0o700)


def _left(folder: Path, number: int, host: str = platform.node()) -> Path:
    path = folder / f".writing-{number}@{host}@a@b.png"
    path.touch()
    return path


def test_a_name_as_long_as_names_can_be_is_written(tmp_path):
    path = tmp_path / ("x" * 251 + ".png")
    with written_whole(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole"


def test_what_killed_writers_left_is_cleared_and_nothing_else(tmp_path):
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    stale = _left(tmp_path, gone.pid)
    kept = [_left(tmp_path, os.getpid()), _left(tmp_path, 1), _left(tmp_path, gone.pid, "another-machine")]
    kept += [tmp_path / ".writing-mine", tmp_path / "a.png"]
    for path in kept:
        path.touch()
    clear_unfinished(tmp_path)
    assert not stale.exists() and all(path.exists() for path in kept)


def test_an_unfinished_file_is_known_by_its_writer(tmp_path):
    with written_whole(tmp_path / "a@b.png") as temporary:
        assert temporary.name.startswith(f".writing-{os.getpid()}@{platform.node()}@")
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".png")
        temporary.touch()
