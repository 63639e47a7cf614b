# SPDX-License-Identifier: Apache-2.0
"""`packed_attention` for training, by the native kernels in axial.cpp and axial_backward.cpp.

They read the operands and write the gradients where they lie in the packed tensors, so nothing is taken apart and put
together again, and the forward keeps nothing but its inputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from coltran_kernels.cpu import axial, native
from coltran_kernels.operators import may_train
from coltran_kernels.shapes import operands_of

_SHAPE = "str axis, bool causal, str conditioned, bool scaled"


def serves(qkv: Tensor, projected: Tensor | None, bias: Tensor) -> bool:
    """Whether the kernels take these tensors, and gain something over those of `axial_attention`."""
    if qkv.device.type != "cpu" or bias.dtype != torch.float32:
        return False
    if not all(
        t.dtype in (torch.float32, torch.bfloat16) and t.dtype == qkv.dtype for t in (qkv, projected) if t is not None
    ):
        return False
    return (qkv.dtype == torch.bfloat16 or may_train(qkv, projected, bias)) and native.expected()


def _views(qkv: Tensor, projected: Tensor | None, heads: int, conditioned: str, scaled: bool) -> list[Tensor | None]:
    found = operands_of(qkv, projected, heads, conditioned, scaled)
    return [found.get(f"{name}{part}") for name in "qkv" for part in ("", "_scale", "_shift")]


@torch.library.custom_op(
    "coltran_kernels::packed_attention_cpu",
    mutates_args=(),
    schema=f"(Tensor qkv, Tensor? projected, Tensor bias, {_SHAPE}) -> Tensor",
)
def attention(
    qkv: Tensor, projected: Tensor | None, bias: Tensor, axis: str, causal: bool, conditioned: str, scaled: bool
) -> Tensor:
    """See `coltran_kernels.packed_attention`."""
    operands = _views(qkv, projected, len(bias), conditioned, scaled)
    return axial.axial_attention(operands, bias, axis=axis, causal=causal).flatten(-2)


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
    of_bias = axial.gradients(
        _views(qkv, projected, heads, conditioned, scaled), bias, grad.unflatten(-1, (heads, -1)),
        _views(of_qkv, of_projected, heads, conditioned, scaled), axis=axis, causal=causal,
    )  # fmt: skip
    return [t for t in (of_qkv, of_projected, of_bias) if t is not None]


@attention.register_fake
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


attention.register_autograd(_gradients, setup_context=_keep)
