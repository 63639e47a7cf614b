# SPDX-License-Identifier: Apache-2.0
"""A dense layer in mixed precision, for training: products of bfloat16 values, all that goes in and out float32.

    y = bf(x) bf(W)^T + b      dx = bf(g) bf(W)      dW = bf(g)^T bf(x)      db = the sum of g      bf: to bfloat16

The sums of the products are float32 and each result is rounded to bfloat16 once. The bias, the relu and db never leave
float32. The input is kept for the backward in bfloat16.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
        rows, narrow = x.reshape(-1, x.shape[-1]).bfloat16(), weight.bfloat16()
        y = (rows @ narrow.T).float()
        if bias is not None:
            y += bias
        if relu:
            y.relu_()
        ctx.save_for_backward(rows, narrow, y if relu else None)
        ctx.shape, ctx.biased = x.shape, bias is not None
        return y.view(*x.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, narrow, y = ctx.saved_tensors
        grad = grads[0].reshape(-1, len(narrow))
        if y is not None:
            grad = torch.ops.aten.threshold_backward(grad, y, 0)
        of_bias = grad.sum(0) if ctx.biased else None
        grad = grad.bfloat16()
        of_x = (grad @ narrow).float().view(ctx.shape) if ctx.needs_input_grad[0] else None
        of_weight = (grad.T @ rows).float() if ctx.needs_input_grad[1] else None
        return of_x, of_weight, of_bias, None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, relu: bool = False) -> Tensor:
    """`coltran_kernels.linear` with products of bfloat16 values; float32 x [..., K], weight [N, K] -> [..., N]."""
    return _Linear.apply(x, weight, bias, relu)
