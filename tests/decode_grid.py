# SPDX-License-Identifier: Apache-2.0
"""What `make decode-grid` runs: the row decoder by its kernels at every size, Triton's in the interpreter.

Too slow for the main suite, which takes chosen sizes (test_decode_row.py).
"""

from __future__ import annotations

import pytest

from tests.operations import NATIVE, random_row
from tests.test_decode_row import INTERPRETED, check


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("hidden", [32, 128, 512])
@pytest.mark.parametrize("width", [64, 16, 7, 1])
@pytest.mark.parametrize("batch", [33, 20, 16, 3, 1])
@pytest.mark.parametrize("implementation", [*NATIVE, INTERPRETED])
def test_every_size_draws_the_references_labels(implementation, batch, width, hidden, layers):
    check(implementation, random_row(batch, width, hidden, hidden, 4, 70, layers))
