# SPDX-License-Identifier: Apache-2.0
"""A dense layer with a gradient in float32, where oneDNN's product is faster than the one that torch takes.

    y = x W^T + b      dx = g W      dW = g^T x      db = the sum of g

oneDNN computes the first two and lays the weights out at each call; dW is torch's, which is the faster there. A short
measurement on this machine decides whether that gains anything (`choice.py`).
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from coltran_kernels.cpu import choice, native
from coltran_kernels.operators import may_train

WAYS = ("torch", "oneDNN")
FEWEST = 1024  # rows; with fewer, laying out the weights costs what the product gains


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    y = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return y.view(*x.shape[:-1], len(weight))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
        y = _multiply(x, weight, bias)
        if relu:
            y.relu_()  # by itself: oneDNN's would make zeros of what is not a number
        ctx.save_for_backward(x, weight, y if relu else None)
        ctx.biased = bias is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        grad = grads[0] if y is None else torch.ops.aten.threshold_backward(grads[0], y, 0)
        rows = grad.reshape(-1, len(weight))
        of_x = _multiply(grad, weight.T, None) if ctx.needs_input_grad[0] else None
        of_weight = rows.T @ x.reshape(-1, x.shape[-1]) if ctx.needs_input_grad[1] else None
        of_bias = rows.sum(0) if ctx.biased else None
        return of_x, of_weight, of_bias, None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """`coltran_kernels.linear` of float32 tensors, differentiable once."""
    return _Linear.apply(x, weight, bias, relu)


def _seconds(way: str, x: Tensor, weight: Tensor, grad: Tensor) -> float:
    start = time.perf_counter()
    y = torch.nn.functional.linear(x, weight) if way == "torch" else linear(x, weight, None, False)
    y.backward(grad)
    return time.perf_counter() - start


@torch.enable_grad()
def _measure() -> str:
    """The faster of WAYS, forward and backward, among those that this torch has."""
    if not torch.backends.mkldnn.is_available():
        return "torch"
    random = torch.Generator().manual_seed(0)
    x, weight, grad = (
        torch.randn(rows, 512, generator=random, dtype=torch.float32, device="cpu") for rows in (2048, 512, 2048)
    )
    operands = x.requires_grad_(), weight.requires_grad_(), grad
    best = dict.fromkeys(WAYS, float("inf"))
    for _ in range(5):
        for way in WAYS:
            best[way] = min(best[way], _seconds(way, *operands))
    return min(WAYS, key=lambda way: best[way])


def serves(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether `linear` takes these tensors, and gains something over torch's."""
    if torch.compiler.is_compiling() or not may_train(x, weight, bias) or native.unsuited(x, weight, bias):
        return False
    if x.shape[:-1].numel() < FEWEST or weight.numel() == 0:
        return False
    return choice.chosen("dense layers in training", WAYS, _measure) == "oneDNN"
