# SPDX-License-Identifier: Apache-2.0
"""What `make settle-sweep` runs: rows by fixed point against rows pixel by pixel, for hundreds of random networks, and
the Triton kernel compiled for GPUs that are not there.

Too slow for the main suite, which takes some of the networks (test_settle_row.py, test_triton_settle.py).
"""

from __future__ import annotations

import pytest
import torch
from decoder_of_tests import SETTINGS, random_row
from settle_cases import Case, check_case, random_cases

from bench.ahead import compile_ahead
from coltran_kernels.decode import in_bfloat16
from coltran_kernels.triton import settle_launch
from coltran_kernels.triton.decode_launch import PRECISION, Plan, launch_options


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


@pytest.mark.parametrize("case", random_cases(60, first=2000), ids=str)
def test_small_networks_in_the_interpreter(case: Case):
    check_case(case, implementation="triton")


@pytest.mark.parametrize(
    ("target", "plan", "batch"),
    [
        ("sm_80", Plan(96, 16, 8, True), 1),
        ("sm_90", Plan(96, 16, 8, True), 1),
        ("sm_100", Plan(96, 16, 8, True), 1),
        ("sm_90", Plan(6, 16, 8, False), 20),
        ("gfx942", Plan(96, 16, 16, False, 4), 1),
        ("gfx942", Plan(15, 16, 16, False, 4), 20),
    ],
)
@pytest.mark.parametrize("values", [torch.bfloat16, torch.float32], ids=["whole", "matrices"])
def test_the_papers_size_fits_in_bfloat16(target: str, plan: Plan, batch: int, values: torch.dtype):
    with torch.device("meta"):
        weights, *row = random_row(batch, 64, 512, 512, 4, 512, 2, dtype=values)
        row = (in_bfloat16(weights), *row)
        guess, influence = torch.zeros(batch, 64, dtype=torch.int64), torch.zeros(512, 512)
        options = SETTINGS | {"top_p": 0.9, "return_probabilities": False}
        arguments = settle_launch.kernel_arguments(*row, guess, plan, window=64, influence=influence, **options)
    kernel, arguments = "coltran_kernels.triton.settle:settle_row_kernel", arguments | {"PRECISION": PRECISION}
    compiled = compile_ahead(kernel, arguments, target=target, **launch_options(plan))
    # Between float32 values attention is in float32 too, of six products each.
    assert compiled.spill_bytes <= (0 if values == torch.bfloat16 else 128) and compiled.fits
    assert compiled.matrix_instructions > 0
