# SPDX-License-Identifier: Apache-2.0
"""Registers implementations with `torch.library`, so that torch.compile takes each as one step with known gradients.

An implementation is a pair of functions on plain tensors. Registering adds what tracing needs: what comes out of
which shapes (the fake implementations), and which function computes the gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Operands = Sequence["Tensor | None"]  # q, q_scale, q_shift, k, k_scale, k_shift, v, v_scale, v_shift

_OPERANDS = ", ".join(f"Tensor{'?' if part else ''} {x}{part}" for x in "qkv" for part in ("", "_scale", "_shift"))


def sum_type(dtype: torch.dtype) -> torch.dtype:
    """What sums over values of a type are kept in: float32, and float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _present(tensors: Sequence[Tensor | None]) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor is not None]


def _like_contiguous(tensors: Sequence[Tensor | None]) -> list[Tensor]:
    return [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in _present(tensors)]


def _spread(found: Sequence[Tensor], tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The gradients of the tensors that are present, with None in the places of the others."""
    remaining = iter(found)
    return [None if tensor is None else next(remaining) for tensor in tensors]


def may_train(*tensors: Tensor | None) -> bool:
    """Whether gradients of any of the tensors may be asked for later."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


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
        return _like_contiguous([q])[0], kept

    @attention_backward.register_fake
    def _(*arguments: Any) -> list[Tensor]:
        return _like_contiguous(arguments[:10])

    def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.axis, ctx.causal, _ = inputs
        ctx.save_for_backward(*tensors, *output)

    def gradients(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
        tensors = ctx.saved_tensors
        found = attention_backward(*tensors, grad, ctx.axis, ctx.causal)
        return (*_spread(found, tensors[:10]), None, None, None)

    attention.register_autograd(gradients, setup_context=keep)
    return attention


def register_layer_norm(
    name: str,
    forward: Callable[..., tuple[Tensor, Tensor, Tensor]],
    backward: Callable[..., list[Tensor]],
) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Registers `coltran_kernels::add_layer_norm_{name}` and its backward.

    Args:
        name: of the implementation.
        forward: (x, residual, scale, shift, eps) -> the output [..., D], contiguous, and the mean and the reciprocal
            standard deviation of each vector, [vectors] of type `sum_type`.
        backward: (x, residual, scale, shift, mean, rstd, grad) -> the gradients of x + residual, and of the scale and
            the shift that are not None.

    Returns:
        The operator: x, residual, scale, shift, eps -> (output, mean, rstd).
    """
    inputs = "Tensor x, Tensor? residual, Tensor? scale, Tensor? shift"
    norm = torch.library.custom_op(
        f"coltran_kernels::add_layer_norm_{name}",
        lambda *arguments: forward(*arguments),
        mutates_args=(),
        schema=f"({inputs}, float eps) -> (Tensor, Tensor, Tensor)",
    )
    norm_backward = torch.library.custom_op(
        f"coltran_kernels::add_layer_norm_{name}_backward",
        lambda *arguments: backward(*arguments),
        mutates_args=(),
        schema=f"({inputs}, Tensor mean, Tensor rstd, Tensor grad) -> Tensor[]",
    )

    @norm.register_fake
    def _(x: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
        statistics = x.new_empty(x.numel() // x.shape[-1], dtype=sum_type(x.dtype))
        return _like_contiguous([x])[0], statistics, torch.empty_like(statistics)

    @norm_backward.register_fake
    def _(x: Tensor, _: Any, scale: Tensor | None, shift: Tensor | None, *__: Any) -> list[Tensor]:
        return _like_contiguous([x, scale, shift])

    def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs[:4], *output[1:])

    def gradients(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
        x, residual, scale, shift, _, _ = tensors = ctx.saved_tensors
        dx, *others = norm_backward(*tensors, grad)
        dscale, dshift = _spread(others, (scale, shift))
        return dx, None if residual is None else dx, dscale, dshift, None

    norm.register_autograd(gradients, setup_context=keep)
    return norm
