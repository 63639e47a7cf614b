# SPDX-License-Identifier: Apache-2.0
"""What `make decode-grid` runs: the row decoder by its kernels at every size, Triton's in the interpreter.

Too slow for the main suite, which takes chosen sizes (test_decode_row.py, test_triton_decode.py).
"""

from __future__ import annotations

import pytest
import torch
from decoder_of_tests import SETTINGS, as_double, away_from_boundaries, random_row

from coltran_kernels import reference
from coltran_kernels.cpu import decode
from coltran_kernels.triton import decode_launch
from coltran_kernels.triton.decode_launch import Plan


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("hidden", [32, 128, 512])
@pytest.mark.parametrize("width", [64, 16, 7, 1])
@pytest.mark.parametrize("batch", [33, 20, 16, 3, 1])
def test_every_size_draws_the_references_labels(batch, width, hidden, layers):
    weights, terms, uniforms = random_row(batch, width, hidden, hidden, 4, 70, layers)
    uniforms, *_ = away_from_boundaries(weights, terms, uniforms, SETTINGS)
    expected = reference.decode_row(as_double(weights), as_double(terms), uniforms, **SETTINGS)
    plan = Plan(1, 16 if batch <= 16 else 64, 256, False)
    by_triton = decode_launch.decode_row(weights, terms, uniforms, plan=plan, **SETTINGS)
    by_cpu = decode.decode_row(decode.pack(weights), terms, uniforms, **SETTINGS)
    for found in (by_triton, by_cpu):
        assert torch.equal(found[0], expected[0])
        torch.testing.assert_close(found[1].double(), expected[1].double(), rtol=0, atol=1e-4)
