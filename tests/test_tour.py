# SPDX-License-Identifier: Apache-2.0
"""docs/tour.ipynb runs from top to bottom, and shows what it gave."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CELLS = json.loads((ROOT / "docs" / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def test_the_notebook_runs(capsys):
    """As one script: what Jupyter shows of a cell is its last value, which a script drops."""
    exec("\n".join("".join(cell["source"]) for cell in CODE), {})
    assert capsys.readouterr().out.count("bits a pixel") == 4  # of three samples and of the truth


def test_the_notebook_shows_what_it_gave():
    assert all(cell["outputs"] for cell in CODE if "show(" in "".join(cell["source"]).rsplit("\n", 1)[-1])
    kinds = [output["output_type"] for cell in CODE for output in cell["outputs"]]
    assert "error" not in kinds and kinds.count("execute_result") >= 5
