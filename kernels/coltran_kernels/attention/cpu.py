# SPDX-License-Identifier: Apache-2.0
"""Attention on the CPU, by the native kernels in axial.cpp and axial_backward.cpp where they can serve.

They read the operands and write the gradients where they lie, packed or not, and keep nothing but their inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from coltran_kernels import native
from coltran_kernels.attention.batched import attend
from coltran_kernels.attention.packing import unpack_operands
from coltran_kernels.attention.registration import Operands
from coltran_kernels.autograd import may_train
from coltran_kernels.elementwise import affine
from coltran_kernels.native import structures
from coltran_kernels.types import Operand

_SHAPE = "str axis, bool causal, str conditioned, bool scaled"


def axial_attention(q: Operand, k: Operand, v: Operand, bias: Tensor | None, *, axis: str, causal: bool) -> Tensor:
    """See `coltran_kernels.axial_attention`. Natively where that can be and no gradient is wanted."""
    operands = (*q, *k, *v)
    plain = not torch.compiler.is_compiling() and not may_train(*operands, bias)
    if plain and native.unsupported_reason(*operands, bias) is None:
        return attend_natively(operands, bias, axis=axis, causal=causal)
    q_, k_, v_ = (affine(*operand) for operand in (q, k, v))
    train = may_train(q_, k_, v_, bias)
    return attend(q_, None, None, k_, None, None, v_, None, None, bias, axis, causal, train)[0]


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
        bfloat16=operands[0].dtype == torch.bfloat16,
    )  # fmt: skip


def attend_natively(operands: Operands, bias: Tensor | None, *, axis: str, causal: bool, target: int = -1) -> Tensor:
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


def takes_packed(qkv: Tensor, projected: Tensor | None, bias: Tensor) -> bool:
    """Whether the kernels take these tensors, and gain something over those of `axial_attention`."""
    if qkv.device.type != "cpu" or bias.dtype != torch.float32:
        return False
    if not all(
        t.dtype in (torch.float32, torch.bfloat16) and t.dtype == qkv.dtype for t in (qkv, projected) if t is not None
    ):
        return False
    return (qkv.dtype == torch.bfloat16 or may_train(qkv, projected, bias)) and native.unavailable() is None


def _views(qkv: Tensor, projected: Tensor | None, heads: int, conditioned: str, scaled: bool) -> list[Tensor | None]:
    return [t for operand in unpack_operands(qkv, projected, heads, conditioned, scaled) for t in operand]


@torch.library.custom_op(
    "coltran_kernels::packed_attention_cpu",
    mutates_args=(),
    schema=f"(Tensor qkv, Tensor? projected, Tensor bias, {_SHAPE}) -> Tensor",
)
def packed_attention(
    qkv: Tensor, projected: Tensor | None, bias: Tensor, axis: str, causal: bool, conditioned: str, scaled: bool
) -> Tensor:
    """See `coltran_kernels.packed_attention`."""
    operands = _views(qkv, projected, len(bias), conditioned, scaled)
    return attend_natively(operands, bias, axis=axis, causal=causal).flatten(-2)


@torch.library.custom_op(
    "coltran_kernels::packed_attention_cpu_backward",
    mutates_args=(),
    schema=f"(Tensor qkv, Tensor? projected, Tensor bias, Tensor grad, {_SHAPE}) -> Tensor[]",
)
def _backward(
    qkv: Tensor, projected: Tensor | None, bias: Tensor, grad: Tensor,
    axis: str, causal: bool, conditioned: str, scaled: bool,
) -> list[Tensor]:  # fmt: skip
    heads = len(bias)
    of_qkv = native.empty(*qkv.shape, dtype=qkv.dtype)
    of_projected = None if projected is None else native.empty(*projected.shape, dtype=projected.dtype)
    of_bias = gradients(
        _views(qkv, projected, heads, conditioned, scaled), bias, grad.unflatten(-1, (heads, -1)),
        _views(of_qkv, of_projected, heads, conditioned, scaled), axis=axis, causal=causal,
    )  # fmt: skip
    return [t for t in (of_qkv, of_projected, of_bias) if t is not None]


@packed_attention.register_fake
def _(qkv: Tensor, *_: Any) -> Tensor:
    return qkv.new_empty(*qkv.shape[:-1], qkv.shape[-1] // 3)


@_backward.register_fake
def _(qkv: Tensor, projected: Tensor | None, bias: Tensor, *_: Any) -> list[Tensor]:
    tensors = (qkv, projected, bias)
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in tensors if t is not None]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.axis, ctx.causal, ctx.conditioned, ctx.scaled = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    qkv, projected, bias = ctx.saved_tensors
    found = _backward(qkv, projected, bias, grad, ctx.axis, ctx.causal, ctx.conditioned, ctx.scaled)
    if projected is None:
        found.insert(1, None)
    return (*found, None, None, None, None)


packed_attention.register_autograd(_gradients, setup_context=_keep)


def unsupported_cache_reason(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> str | None:
    """Why `cached_attention` cannot serve these tensors, or None."""
    if (reason := native.unsupported_reason(q, k, v, bias)) is not None:
        return reason
    if k.stride(-1) != 1 or k.stride() != v.stride():
        return "it needs contiguous channels, and keys that lie as the values do"
    return None


@torch.no_grad()
def cached_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, *, target: int = -1) -> Tensor:
    """See `coltran_kernels.cached_attention`. `target`, an index of `native.targets()`, is for the tests."""
    batch, length, width, heads, channels = k.shape
    library, threads = native.load(), torch.get_num_threads()
    # These must stay alive until the kernel has returned: the struct holds addresses only.
    q = q if q.stride()[-2:] == (channels, 1) else q.contiguous()
    bias = bias if bias.stride(1) == 1 else bias.contiguous()
    out = native.empty(batch, width, heads, channels)
    workspace = native.empty(threads, -(-length // 16) * 16)
    column = structures.Column(
        batch=batch, width=width, heads=heads, channels=channels, length=length,
        q=structures.term(q[..., 0, :]), keys=structures.term(k[:, 0, :, 0]), values=structures.term(v[:, 0, :, 0]),
        head=k.stride(3), step=k.stride(1), bias=bias.data_ptr(), bias_stride=bias.stride(0),
        out=out.data_ptr(), workspace=workspace.data_ptr(),
    )  # fmt: skip
    library.coltran_attend_columns(column, threads, target)
    return out
