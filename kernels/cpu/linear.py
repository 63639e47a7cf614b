# SPDX-License-Identifier: Apache-2.0
"""`linear` by the native kernel in linear.cpp, the gradient of the weights by torch's product."""

from __future__ import annotations

import torch
from torch import Tensor

from coltran_kernels import reference
from coltran_kernels.cpu import native, structures
from coltran_kernels.operators import may_train, register_linear

PANEL, PASS = 32, 1024  # rows arranged side by side, and at a time, as in linear.h


def unsupported(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    """Why the kernel cannot serve these tensors, or None."""
    if weight.shape[1] == 0:
        return "it needs at least one input"
    return native.unsuited(x, weight, bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """See `coltran_kernels.linear`."""
    # The operator costs as much as the product of a few rows, and sampling makes a thousand of them an image.
    traced = torch.compiler.is_compiling() or may_train(x, weight, bias)
    return (multiply_traced if traced else multiply)(x, weight, bias, relu)


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool, *, target: int = -1) -> Tensor:
    """The product without a gradient. `target`, an index of `native.targets()`, is for the tests."""
    y = torch.empty(*x.shape[:-1], weight.shape[0])
    # These must stay alive until the kernel has returned: the struct holds addresses only.
    rows = x.reshape(-1, x.shape[-1])
    rows, weight = (t if t.stride(1) == 1 else t.contiguous() for t in (rows, weight))
    bias = None if bias is None else bias.contiguous()
    count, depth = rows.shape
    workspace = torch.empty(-(-min(count, PASS) // PANEL) * PANEL * depth)
    call = structures.Linear(
        rows=count, outputs=weight.shape[0], depth=depth, x=rows.data_ptr(), x_stride=rows.stride(0),
        weight=weight.data_ptr(), weight_stride=weight.stride(0), bias=None if bias is None else bias.data_ptr(),
        y=y.data_ptr(), y_stride=weight.shape[0], relu=relu, workspace=workspace.data_ptr(),
    )  # fmt: skip
    native.load().coltran_linear(call, torch.get_num_threads(), target)
    return y


def gradients(
    x: Tensor, weight: Tensor, y: Tensor | None, grad: Tensor, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """See `register_linear`."""
    grad = grad if y is None else grad * (y > 0)
    rows = grad.reshape(-1, grad.shape[-1])
    of_x = multiply_traced(grad, weight.T.contiguous(), None, False) if wanted[0] else None
    of_weight = rows.T @ x.reshape(-1, x.shape[-1]) if wanted[1] else None
    return of_x, of_weight, rows.sum(0) if wanted[2] else None


def _multiply_or_torch(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """For the operator, which is chosen where torch.compile traces and cannot ask whether the library is there."""
    if native.why_not() is None:
        return multiply(x, weight, bias, relu)
    return reference.linear(x, weight, bias, relu)


multiply_traced = register_linear("cpu", _multiply_or_torch, gradients)
