# SPDX-License-Identifier: Apache-2.0
"""What the Triton kernels of all operations share."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction

from coltran_kernels.autograd import sum_type


@triton.jit
def _nothing():
    pass


INTERPRETED = isinstance(_nothing, InterpretedFunction)


def kernel_sum_type(dtype: torch.dtype) -> tl.dtype:
    """`sum_type` under Triton's name."""
    return tl.float64 if sum_type(dtype) == torch.float64 else tl.float32
