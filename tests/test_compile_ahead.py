# SPDX-License-Identifier: Apache-2.0
"""The figures of kernels that are compiled for absent GPUs are those of the kernels."""

from __future__ import annotations

import pytest
import triton
import triton.language as tl

from bench.ahead import TARGETS, compile_ahead


@triton.jit
def square_kernel(X, Y, stride, N: tl.constexpr):
    """Y = X X, one tile."""
    i = tl.arange(0, N)
    x = tl.load(X + i[:, None] * stride + i[None, :])
    tl.store(Y + i[:, None] * stride + i[None, :], tl.dot(x, x).to(Y.dtype.element_ty))


def _square(n: int, target: str, **options: int):
    arguments = {"X": "float16", "Y": "float16", "stride": n, "N": n}
    return compile_ahead("tests.test_compile_ahead:square_kernel", arguments, target=target, **options)


@pytest.mark.parametrize("target", TARGETS)
def test_a_small_product_fits_and_uses_the_matrix_units(target):
    compiled = _square(64, target, num_warps=4)
    assert compiled.fits
    assert compiled.matrix_instructions > 0
    assert compiled.num_warps == 4


def test_a_product_too_large_for_one_warp_spills():
    compiled = _square(128, "sm_80", num_warps=1)
    assert compiled.spill_bytes > 0
    assert not compiled.fits


def test_arguments_are_specialised_as_in_a_launch():
    wide, narrow = (
        compile_ahead(
            "tests.test_compile_ahead:square_kernel",
            {"X": "float16", "Y": "float16", "stride": stride, "N": 64},
            target="sm_80",
            num_warps=4,
        ).instructions["LDG"]
        for stride in (64, 67)
    )
    assert wide * 4 <= narrow  # a stride of whole 16 bytes is loaded 8 values at a time


def test_blocks_a_multiprocessor_are_limited_by_threads():
    assert _square(16, "sm_90", num_warps=16).blocks == 4
