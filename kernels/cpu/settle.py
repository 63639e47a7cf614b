# SPDX-License-Identifier: Apache-2.0
"""`settle_row` by the native kernel in settle.cpp."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from coltran_kernels.cpu import native, structures
from coltran_kernels.cpu.decode import PackedWeights, describe, useful_threads
from coltran_kernels.types import RowTerms, Settled


@torch.no_grad()
def settle_row(
    packed: PackedWeights,
    terms: RowTerms,
    uniforms: Tensor,
    guess: Tensor,
    *,
    window: int,
    influence: Tensor | None,
    threads: int | None = None,
    target: int = -1,
    **options: Any,
) -> Settled:
    """See `coltran_kernels.settle_row`. `threads` and `target`, an index of `native.targets()`, are for the tests."""
    described = describe(packed, terms, uniforms, **options)
    given = options["given"]
    described.drawn.copy_(guess if given is None else torch.where(given >= 0, given, guess))
    batch, width = uniforms.shape
    window = min(window, width)
    threads = threads or min(window, useful_threads(packed, window, packed.logits.numel()))
    passes, computed = native.empty(2, batch, dtype=torch.int64)
    influence = None if influence is None else influence.float().contiguous()
    settle = structures.Settle(
        row=ctypes.pointer(described.row), window=window, influence=None if influence is None else influence.data_ptr(),
        passes=passes.data_ptr(), computed=computed.data_ptr(),
    )  # fmt: skip
    library = native.load()
    workspace = native.empty(library.coltran_settle_workspace(settle, threads))
    described.row.workspace = workspace.data_ptr()
    library.coltran_settle_row(settle, threads, target)
    return Settled(described.drawn, described.log_prob, described.probabilities, passes, computed)
