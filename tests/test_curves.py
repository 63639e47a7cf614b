# SPDX-License-Identifier: Apache-2.0
"""The plot of training losses, docs/curves.py."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from coltran.errors import UserError

FILE = Path(__file__).resolve().parent.parent / "docs" / "curves.py"


@pytest.fixture(scope="module")
def curves():
    spec = importlib.util.spec_from_file_location("curves", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(folder: Path, losses: list[float]) -> Path:
    folder.mkdir()
    rows = [json.dumps({"step": 10 * (i + 1), "mean_loss": loss}) for i, loss in enumerate(losses)]
    (folder / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder


def test_a_png_is_drawn_and_the_last_losses_are_printed(curves, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="plots need the extra plot")
    run = _run(tmp_path / "run", [5.0, 4.0, 3.0, 2.0])
    result = {"model": "coltran_core", "checkpoint": "run/checkpoint-000030", "loss": 3.5}
    (run / "valid.jsonl").write_text(json.dumps(result), encoding="utf-8")
    assert curves.main([f"a name={run}", "--output", str(tmp_path / "new" / "out.png")]) == 0
    assert (tmp_path / "new" / "out.png").read_bytes().startswith(b"\x89PNG")
    assert "a name" in (out := capsys.readouterr().out) and "40 steps, 2.0000 bits" in out
    assert [list(found) for found in curves.validation(run)] == [[30], [3.5]]


def test_a_step_that_was_taken_twice_counts_once_as_last_written(curves, tmp_path):
    run = _run(tmp_path / "run", [5.0, 4.0])
    with (run / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write('\n{"step": 20, "mean_loss": 4.5}')
    steps, losses = curves.training(run)
    assert steps.tolist() == [10, 20] and losses.tolist() == [5.0, 4.5]


def test_smoothing_is_over_a_twentieth(curves):
    losses = np.arange(40.0)
    found = curves.smoothed(losses)
    assert found[0] == 0 and found[1] == 0.5 and found[39] == 38.5


def test_a_folder_without_a_training_is_one_sentence(curves, tmp_path):
    with pytest.raises(UserError, match="no summaries"):
        curves.training(tmp_path)
