# SPDX-License-Identifier: Apache-2.0
"""What `make settle-sweep` runs: rows by fixed point against rows pixel by pixel, for hundreds of random networks.

Too slow for the main suite, which takes some of them (test_settle_row.py).
"""

from __future__ import annotations

import pytest
import torch
from settle_cases import Case, check_case, random_cases


@pytest.mark.parametrize("implementation", ["reference", "cpu"])
@pytest.mark.parametrize("case", random_cases(600, first=1000), ids=str)
def test_small_networks(case: Case, implementation: str):
    torch.use_deterministic_algorithms(True)  # fills torch.empty with NaN
    try:
        check_case(case, implementation)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("right", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("options", [{}, {"mode": "argmax"}, {"top_p": 0.9}], ids=str)
@pytest.mark.parametrize("implementation", ["reference", "cpu"])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_papers_size_with_random_weights(batch: int, implementation: str, options: dict[str, object], right: float):
    sizes = (batch, 64, 512, 512, 4, 512, 2)
    check_case(Case(7, sizes, "all", options, right, window=16, imposed=0.0), implementation)
