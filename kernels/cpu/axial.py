# SPDX-License-Identifier: Apache-2.0
"""`axial_attention` by the native kernel in axial.cpp: the output alone, and no gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from coltran_kernels.cpu import native, structures
from coltran_kernels.operators import Operands


def unsupported(operands: Operands, bias: Tensor | None) -> str | None:
    """Why the kernel cannot serve these tensors, or None."""
    return native.unsuited(*operands, bias)


def _lines(tensor: Tensor | None, axis: str) -> structures.Lines:
    if tensor is None:
        return structures.Lines()
    image, row, column, head, _ = tensor.stride()
    line, position = (row, column) if axis == "row" else (column, row)
    return structures.Lines(tensor.data_ptr(), image, line, position, head)


def axial_attention(operands: Operands, bias: Tensor | None, *, axis: str, causal: bool, target: int = -1) -> Tensor:
    """See `coltran_kernels.axial_attention`; `operands` are q, q_scale, q_shift, k, ..., v_shift.

    `target`, an index of `native.targets()`, is for the tests.
    """
    # These must stay alive until the kernel has returned: the struct holds addresses only.
    operands = [t if t is None or t.stride(-1) == 1 else t.contiguous() for t in operands]
    bias = None if bias is None else bias.contiguous()
    assert operands[0] is not None
    batch, height, width, heads, channels = operands[0].shape
    out = torch.empty(batch, height, width, heads, channels)
    lines, length = (height, width) if axis == "row" else (width, height)
    call = structures.Axial(
        batch, lines, length, heads, channels, *(_lines(t, axis) for t in (*operands, out)),
        bias=None if bias is None else bias.data_ptr(), bias_stride=2 * length, causal=causal,
    )  # fmt: skip
    library, threads = native.load(), min(torch.get_num_threads(), max(1, batch * lines * heads))
    workspace = torch.empty(threads, library.coltran_axial_scratch(call))
    call.workspace = workspace.data_ptr()
    library.coltran_axial(call, threads, target)
    return out
