# SPDX-License-Identifier: Apache-2.0
"""What `make triton-grid` runs: the row decoder's kernel at every size, in Triton's interpreter.

Too slow for the main suite, which takes chosen sizes (test_triton_decode.py).
"""

from __future__ import annotations

import pytest
from test_triton_decode import assert_as_specified, random_row

from coltran_kernels.triton.decode_launch import Plan


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("hidden", [32, 128, 512])
@pytest.mark.parametrize("width", [64, 16, 7, 1])
@pytest.mark.parametrize("batch", [33, 20, 16, 3, 1])
def test_every_size_draws_the_references_labels(batch, width, hidden, layers):
    tile = 16 if batch <= 16 else 64
    assert_as_specified(*random_row(batch, width, hidden, hidden, 4, 70, layers), plan=Plan(1, tile, 256, False))
