# SPDX-License-Identifier: Apache-2.0
"""`axial_attention` and its gradients by the native kernels in axial.cpp and axial_backward.cpp."""

from __future__ import annotations

from collections.abc import Sequence

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


def _readable(operands: Operands) -> list[Tensor | None]:
    return [t if t is None or t.stride(-1) == 1 else t.contiguous() for t in operands]


def _described(
    operands: Operands, out: Tensor | None, bias: Tensor | None, axis: str, causal: bool
) -> structures.Axial:
    """The kernels' view of the tensors, which must stay alive until they have returned: it holds addresses only."""
    assert operands[0] is not None
    batch, height, width, heads, channels = operands[0].shape
    lines, length = (height, width) if axis == "row" else (width, height)
    return structures.Axial(
        batch, lines, length, heads, channels, *(_lines(t, axis) for t in (*operands, out)),
        bias=None if bias is None else bias.data_ptr(), bias_stride=2 * length, causal=causal,
        narrow=operands[0].dtype == torch.bfloat16,
    )  # fmt: skip


def axial_attention(operands: Operands, bias: Tensor | None, *, axis: str, causal: bool, target: int = -1) -> Tensor:
    """See `coltran_kernels.axial_attention`; `operands` are q, q_scale, q_shift, k, ..., v_shift.

    They may be bfloat16, all of them; the bias is float32. `target`, an index of `native.targets()`, is for the tests.
    """
    operands = _readable(operands)
    bias = None if bias is None else bias.contiguous()
    assert operands[0] is not None
    out = native.empty(*operands[0].shape, dtype=operands[0].dtype)
    call = _described(operands, out, bias, axis, causal)
    library, threads = native.load(), min(torch.get_num_threads(), max(1, call.batch * call.lines * call.heads))
    workspace = native.empty(threads, library.coltran_axial_scratch(call))
    call.workspace = workspace.data_ptr()
    library.coltran_axial(call, threads, target)
    return out


def gradients(
    operands: Operands, bias: Tensor, grad: Tensor, of_operands: Sequence[Tensor | None], *, axis: str, causal: bool,
    target: int = -1,
) -> Tensor:  # fmt: skip
    """Writes the gradients of the operands into `of_operands`, and returns that of the bias.

    Args:
        operands: as for `axial_attention`, [B, H, W, h, C], float32 or bfloat16.
        bias: [h, 2L], float32.
        grad: the output's, of the operands' shape and type.
        of_operands: of the operands' shapes and types, None where those are; their channels lie side by side.
    """
    operands, bias, (of_out,) = _readable(operands), bias.contiguous(), _readable([grad])
    call = structures.AxialGradients(
        _described(operands, None, bias, axis, causal), *(_lines(t, axis) for t in (of_out, *of_operands))
    )
    library, threads = native.load(), torch.get_num_threads()
    workspace = native.empty(threads, library.coltran_backward_scratch(call.forward))
    groups = library.coltran_backward_groups(call.forward)
    of_bias = native.empty(call.forward.batch, groups, *bias.shape)
    call.forward.workspace, call.bias = workspace.data_ptr(), of_bias.data_ptr()
    library.coltran_axial_backward(call, threads, target)
    return of_bias.sum((0, 1))
