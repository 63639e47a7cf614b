# SPDX-License-Identifier: Apache-2.0
"""Registers an implementation of axial attention with `torch.library`: torch.compile takes it as one step.

An implementation is a pair of functions on plain tensors. Registering adds what tracing needs: what comes out of
which shapes (the fake implementations), and which function computes the gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from coltran_kernels.autograd import like_contiguous, spread, sum_type

Operands = Sequence["Tensor | None"]  # q, q_scale, q_shift, k, k_scale, k_shift, v, v_scale, v_shift

_OPERANDS = ", ".join(f"Tensor{'?' if part else ''} {x}{part}" for x in "qkv" for part in ("", "_scale", "_shift"))


def register_attention(
    name: str,
    forward: Callable[..., tuple[Tensor, Tensor]],
    backward: Callable[..., list[Tensor]],
    kept_shape: Callable[[Tensor, str, bool], tuple[int, ...]],
) -> Callable[..., tuple[Tensor, Tensor]]:
    """Registers `coltran_kernels::axial_attention_{name}` and its backward.

    Args:
        name: of the implementation.
        forward: (operands, bias, axis=, causal=, train=) -> the output [B, H, W, h, C], contiguous, and what the
            backward wants to keep besides it. `train` says whether a backward may follow.
        backward: (operands, bias, out, kept, grad, axis=, causal=) -> the gradients of the operands and the bias that
            are not None, in that order, contiguous.
        kept_shape: (q, axis, train) -> the shape of what is kept; its type is `sum_type` of q's.

    Returns:
        The operator: q, ..., v_shift, bias, axis, causal, train -> (output, kept).
    """

    def call(*arguments: Any) -> tuple[Tensor, Tensor]:
        *operands, bias, axis, causal, train = arguments
        return forward(operands, bias, axis=axis, causal=causal, train=train)

    def call_backward(*arguments: Any) -> list[Tensor]:
        *operands, bias, out, kept, grad, axis, causal = arguments
        return backward(operands, bias, out, kept, grad, axis=axis, causal=causal)

    attention = torch.library.custom_op(
        f"coltran_kernels::axial_attention_{name}",
        call,
        mutates_args=(),
        schema=f"({_OPERANDS}, Tensor? bias, str axis, bool causal, bool train) -> (Tensor, Tensor)",
    )
    attention_backward = torch.library.custom_op(
        f"coltran_kernels::axial_attention_{name}_backward",
        call_backward,
        mutates_args=(),
        schema=f"({_OPERANDS}, Tensor? bias, Tensor out, Tensor kept, Tensor grad, str axis, bool causal) -> Tensor[]",
    )

    @attention.register_fake
    def _(*arguments: Any) -> tuple[Tensor, Tensor]:
        q, *_, axis, _, train = arguments
        kept = q.new_empty(kept_shape(q, axis, train), dtype=sum_type(q.dtype))
        return like_contiguous([q])[0], kept

    @attention_backward.register_fake
    def _(*arguments: Any) -> list[Tensor]:
        return like_contiguous(arguments[:10])

    def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.axis, ctx.causal, _ = inputs
        ctx.save_for_backward(*tensors, *output)

    def gradients(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
        tensors = ctx.saved_tensors
        found = attention_backward(*tensors, grad, ctx.axis, ctx.causal)
        return (*spread(found, tensors[:10]), None, None, None)

    attention.register_autograd(gradients, setup_context=keep)
    return attention
