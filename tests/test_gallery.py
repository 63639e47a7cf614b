# SPDX-License-Identifier: Apache-2.0
"""The comparison of networks in docs/gallery.py."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np

from coltran.image import load_photo
from coltran.photo.sheets import GAP
from tests.tiny import tiny_pipeline
from tests.tiny_training import write_photo

FILE = Path(__file__).resolve().parent.parent / "docs" / "gallery.py"


def test_a_row_is_the_photograph_in_gray_and_the_same_seeds_of_every_pipeline(tmp_path):
    pipeline, photo = tiny_pipeline(), load_photo(write_photo(tmp_path / "a.png", 0, 200, 200))
    compare = runpy.run_path(str(FILE))["compare"]
    sheet = compare([photo, photo], {"now": pipeline, "too": pipeline})
    first, second = np.split(sheet, 2)
    assert first.shape[1] == 5 * 200 + 4 * GAP
    gray, one, two, once_more, and_two = (first[-200:, n * (200 + GAP) :][:, :200] for n in range(5))
    assert np.ptp(gray.astype(int), axis=-1).max() == 0 < np.ptp(one.astype(int), axis=-1).max()
    assert np.array_equal(one, once_more) and np.array_equal(two, and_two) and not np.array_equal(one, two)
