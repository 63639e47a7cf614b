# SPDX-License-Identifier: Apache-2.0
"""A dense layer on the CPU, `y = x W^T + b`: its weights laid out once for many products without a gradient.

    "packed"     oneDNN's product on weights in its own order, in float32 or bfloat16
    "torch"      torch's product on the weights as they are

The packed product is the faster one wherever torch has oneDNN (docs/notes/log.md). A row's result must not depend on
how many rows there are, to the bit; of oneDNN's that was seen on AVX2 and AVX-512. Others take BLOCK rows at a time,
the last filled up. In bfloat16 the inputs and weights are rounded to it, the sums are float32 and each result is
rounded once.

With a gradient, in float32,

    y = x W^T + b      dx = g W      dW = g^T x      db = the sum of g

oneDNN computes the first two from FEWEST rows on and lays the weights out at each call; dW is torch's, the faster
there.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from coltran_kernels import native
from coltran_kernels.autograd import may_train

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BLOCK = 64
FEWEST = 1024  # rows; with fewer, laying out the weights at each call costs what the product gains
FORMS = ("packed", "packed in blocks", "torch", "torch in blocks")


def unsupported_bfloat16(device: torch.device | None = None) -> str | None:
    """Why this processor, or that GPU, has no products of bfloat16 values, or None."""
    if device is not None and device.type == "cuda":
        has = torch.cuda.is_bf16_supported(including_emulation=False)
        return None if has else f"bfloat16 needs a GPU with units for it; {torch.cuda.get_device_name(device)} has none"
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return None
    return "bfloat16 needs a processor with units for it (AVX512-BF16 or AMX), and this one has none"


@dataclass(frozen=True)
class PackedLinear:
    """A dense layer as its product reads it: a copy, but for weights that are in that order already."""

    outputs: int
    form: str
    precision: str
    laid_out: Tensor
    added: Tensor | None  # the bias in the precision of the product

    def product(self, rows: Tensor) -> Tensor:
        """[M, K] -> [M, N], both in the precision of the product."""
        if self.form.startswith("packed"):
            return torch.ops.mkldnn._linear_pointwise(rows, self.laid_out, self.added, "none", [], "")
        return F.linear(rows, self.laid_out, self.added)

    @torch.no_grad()
    def multiply(self, x: Tensor, relu: bool = False, out_dtype: torch.dtype = torch.float32) -> Tensor:
        """[..., K] -> [..., N]; with `relu` negative values become zero.

        Both are float32 or of the product's precision.
        """
        rows = x.reshape(-1, x.shape[-1]).to(TYPES[self.precision])
        if self.form.endswith("blocks"):
            count = len(rows)
            blocks = F.pad(rows, (0, 0, 0, -count % BLOCK)).split(BLOCK)
            y = torch.cat([self.product(block) for block in blocks])[:count]
        else:
            y = self.product(rows)
        if relu:
            y.relu_()  # by itself: oneDNN's would make zeros of what is not a number
        return y.to(out_dtype).view(*x.shape[:-1], self.outputs)


def lay_out(weight: Tensor, bias: Tensor | None, precision: str, form: str) -> PackedLinear:
    """A dense layer in one of FORMS: float32 weights [N, K], with K at least 1, and a bias [N] or None."""
    kind, weight = TYPES[precision], weight.detach()
    laid_out = weight.to(kind).contiguous()
    if form.startswith("packed"):
        laid_out = torch.ops.mkldnn._reorder_linear_weight(laid_out, None)
    added = None if bias is None else bias.detach().to(kind).contiguous()
    return PackedLinear(len(weight), form, precision, laid_out, added)


def pack(weight: Tensor, bias: Tensor | None, precision: str = "float32") -> PackedLinear:
    """`lay_out` in the form that serves best here."""
    form = "packed" if torch.backends.mkldnn.is_available() else "torch"
    rows_are_apart = form == "packed" and platform.machine().lower() in ("x86_64", "amd64")
    return lay_out(weight, bias, precision, form if rows_are_apart else f"{form} in blocks")


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    y = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return y.view(*x.shape[:-1], len(weight))


class _TrainedLinear(torch.autograd.Function):
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


def linear_for_training(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """`coltran_kernels.linear` of float32 tensors, differentiable once."""
    return _TrainedLinear.apply(x, weight, bias, relu)


def gains_in_training(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether `linear_for_training` takes these tensors, and gains something over torch's."""
    if torch.compiler.is_compiling() or not may_train(x, weight, bias) or native.unsupported_tensors(x, weight, bias):
        return False
    return x.shape[:-1].numel() >= FEWEST and weight.numel() > 0 and torch.backends.mkldnn.is_available()
