# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

pa = pytest.importorskip("pyarrow", reason="pyarrow comes with coltran[ray]")

from coltran.errors import UserError  # noqa: E402
from coltran.photo import manifest  # noqa: E402
from coltran.photo.manifest import Manifest  # noqa: E402


def _rows(*paths: str, error: str | None = None) -> pa.Table:
    rows = [{"path": path, "file": f"{path}-0.png", "sample": 0, "seed": 2**63 + 1, "error": error} for path in paths]
    return pa.Table.from_pylist(rows, manifest.SCHEMA)


def _paths(folder: Path) -> list[str]:
    return manifest.read(folder)["path"].to_pylist()


def test_what_was_added_is_in_the_file(tmp_path):
    kept = Manifest(tmp_path, {"seed": 0})
    kept.add(_rows("b", "a"))
    kept.add(_rows("c"))
    kept.close()
    assert _paths(tmp_path) == ["a", "b", "c"]
    assert manifest.read(tmp_path)["seed"].to_pylist() == [2**63 + 1] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.parquet"]


def test_a_later_run_adds_to_it_and_knows_what_is_done(tmp_path):
    for paths in (["a", "b"], ["c"]):
        kept = Manifest(tmp_path, {"seed": 0})
        kept.add(_rows(*paths))
        kept.close()
    assert Manifest(tmp_path, {"seed": 0}).done == {"a", "b", "c"}


def test_a_run_that_was_cut_off_keeps_its_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "EVERY", 0.0)
    Manifest(tmp_path, {"seed": 0}).add(_rows("a"))
    (tmp_path / "manifest-parts" / ".writing-1-1.parquet").write_bytes(b"torn")
    assert Manifest(tmp_path, {"seed": 0}).done == {"a"}
    assert _paths(tmp_path) == ["a"]


def test_a_part_that_was_put_in_already_counts_once(tmp_path, monkeypatch):
    """As when a run is cut off after the file was written and before the parts are gone."""
    monkeypatch.setattr(manifest, "EVERY", 0.0)
    Manifest(tmp_path, {"seed": 0}).add(_rows("a"))
    (part,) = (tmp_path / "manifest-parts").iterdir()
    kept = part.read_bytes()
    Manifest(tmp_path, {"seed": 0})
    part.write_bytes(kept)
    Manifest(tmp_path, {"seed": 0})
    assert _paths(tmp_path) == ["a"]


def test_failures_are_forgotten_when_their_photographs_are_tried_again(tmp_path):
    kept = Manifest(tmp_path, {"seed": 0})
    kept.add(_rows("a", "b", error="It is broken."))
    kept.close()
    again = Manifest(tmp_path, {"seed": 0}, wanted={"a", "c"})
    assert again.done == set()
    assert _paths(tmp_path) == ["b"]


def test_other_options_are_refused(tmp_path):
    Manifest(tmp_path, {"seed": 0}).close()
    with pytest.raises(UserError, match=r"made with other options.*name another folder"):
        Manifest(tmp_path, {"seed": 1})
