# SPDX-License-Identifier: Apache-2.0
"""`compile_ahead` compiles a Triton kernel for a GPU that is not there, in a process of its own.

The tests' own processes run kernels in Triton's interpreter, which they must choose before triton is imported, and in
which nothing can be compiled. So one process without TRITON_INTERPRET waits for each process of tests. See
`bench.ahead.compile_kernel` for what the arguments mean:

    compiled = compile_ahead(
        "coltran_kernels.triton.layer_norm:forward_kernel",
        {"X": "bfloat16", "rows": 4096, "EPS": 1e-3, "BLOCK": 512},
        target="sm_90",
        num_warps=4,
    )
    assert compiled.fits and compiled.registers <= 128
"""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from bench.ahead import TARGETS, Compiled, compile_kernel

__all__ = ["TARGETS", "Compiled", "compile_ahead"]


def _leave_the_interpreter() -> None:
    os.environ.pop("TRITON_INTERPRET", None)


@functools.cache
def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_leave_the_interpreter)


def compile_ahead(kernel: str, arguments: Mapping[str, Any], *, target: str, **options: Any) -> Compiled:
    """`bench.ahead.compile_kernel` in that process; raises what it raises."""
    return _process().submit(compile_kernel, kernel, dict(arguments), target=target, **options).result()
