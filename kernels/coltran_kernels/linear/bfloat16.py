# SPDX-License-Identifier: Apache-2.0
"""A dense layer in mixed precision, for training: products of bfloat16 values, weights and sums in float32.

    y = bf(x) bf(W)^T + b      dx = bf(g) bf(W)      dW = bf(g)^T bf(x)      db = the sum of g      bf: to bfloat16

The sums of the products are float32 and each result is rounded to bfloat16 once. db is summed in float32. The input is
kept for the backward in bfloat16. Between two such layers values and their gradients may stay bfloat16, which saves
their way to float32 and back; the bias is then rounded too, else it is added in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool, out_dtype: torch.dtype) -> Tensor:
        rows, weights = x.reshape(-1, x.shape[-1]).bfloat16(), weight.bfloat16()
        if out_dtype == torch.bfloat16:
            y = F.linear(rows, weights, None if bias is None else bias.bfloat16())
        else:
            y = (rows @ weights.T).float()
            if bias is not None:
                y += bias
        if relu:
            y.relu_()
        ctx.save_for_backward(rows, weights, y if relu else None)
        ctx.shape, ctx.dtype, ctx.biased = x.shape, x.dtype, bias is not None
        return y.view(*x.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, weights, y = ctx.saved_tensors
        grad = grads[0].reshape(-1, len(weights))
        if y is not None:
            grad = torch.ops.aten.threshold_backward(grad, y, 0)
        of_bias = grad.sum(0, dtype=torch.float32) if ctx.biased else None
        grad = grad.bfloat16()
        of_x = (grad @ weights).to(ctx.dtype).view(ctx.shape) if ctx.needs_input_grad[0] else None
        of_weight = (grad.T @ rows).float() if ctx.needs_input_grad[1] else None
        return of_x, of_weight, of_bias, None, None


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    relu: bool = False,
    out_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """`coltran_kernels.linear` with products of bfloat16 values.

    Args:
        x: [..., K], float32 or bfloat16; its gradient is of the same type.
        weight, bias: [N, K] and [N], float32.
        relu: replace negative values by zero.
        out_dtype: float32 or bfloat16.

    Returns:
        [..., N].
    """
    return _Linear.apply(x, weight, bias, relu, out_dtype)
