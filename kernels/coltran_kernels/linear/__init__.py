# SPDX-License-Identifier: Apache-2.0
"""A dense layer, one laid out once for many products, and one with what stands around it."""

from __future__ import annotations

import torch
from torch import Tensor

from coltran_kernels import native
from coltran_kernels.dispatch import IMPLEMENTATIONS, anything, require, select
from coltran_kernels.layer_norm import reference as layer_norm_reference
from coltran_kernels.layer_norm import xla as layer_norm_xla
from coltran_kernels.linear import cpu, reference
from coltran_kernels.types import Epilogue, Pending


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, relu: bool = False, implementation: str | None = None
) -> Tensor:
    """A dense layer: `x W^T + bias`, with `relu` negative values replaced by zero.

    Args:
        x: [..., K].
        weight: [N, K].
        bias: [N] or None.
        relu: take max(y, 0).
        implementation: all take torch's product, but for a gradient "cpu" oneDNN's where faster, differentiable once.

    Returns:
        [..., N].

    Raises:
        ValueError: shapes that do not fit.
        NotImplementedError: the named implementation cannot serve these tensors.
    """
    require(
        weight.dim() == 2 and x.shape[-1:] == weight.shape[1:],
        f"linear: x is {tuple(x.shape)}, the weight {tuple(weight.shape)}",
    )
    require(
        bias is None or bias.shape == weight.shape[:1],
        f"linear: bias is {None if bias is None else tuple(bias.shape)}, the weight {tuple(weight.shape)}",
    )
    reasons = dict.fromkeys(IMPLEMENTATIONS, anything)
    chosen = select("linear", implementation, x, reasons)
    if chosen == "cpu" and cpu.gains_in_training(x, weight, bias):
        return cpu.linear_for_training(x, weight, bias, relu)
    return reference.linear(x, weight, bias, relu)


@torch.no_grad()
def fused_linear(
    pending: Pending,
    weight: Tensor,
    epilogue: Epilogue = Epilogue(),  # noqa: B008  # immutable
    *,
    final: Tensor | None = None,
    out: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    eps: float = 1e-3,
    implementation: str | None = None,
) -> tuple[Tensor, Tensor]:
    """A dense layer on a row of B images with all that stands around it: `n W^T`, and n, which a residual sum needs.

        n = norm(... (x + table[index]))        y = relu(n W^T + bias) * scale + shift + residual

    Args:
        pending: what precedes the product, of K values a pixel.
        weight: [N, K].
        epilogue: what follows it.
        final: [B] int32: what is computed of an image where that is not less than W is undefined.
        out: where y goes, [B, W, N], contiguous; default a new tensor.
        out_dtype: y's where that is new; default x's.
        eps: of the norms.
        implementation: "reference", "triton" (not float64), "xla" or None. No gradient passes.

    Returns:
        y [B, W, N] and n [B, W, K]; n is of x's type.

    Raises:
        ValueError: shapes that do not fit.
        NotImplementedError: the named implementation cannot serve these tensors.
    """
    x = pending.x
    fits = x.dim() == 3 and x.is_contiguous() and len(pending.norms) <= 2
    require(fits, f"fused_linear: x is {tuple(x.shape)}, of {len(pending.norms)} norms")
    require(weight.dim() == 2 and x.shape[-1] == weight.shape[1], f"fused_linear: the weight is {tuple(weight.shape)}")
    wide = (*x.shape[:2], weight.shape[0])
    require(out is None or out.shape == wide and out.is_contiguous(), "fused_linear: out has another shape than y")
    for name in ("scale", "shift", "residual"):
        tensor = getattr(epilogue, name)
        if tensor is not None:
            one_step = tensor.shape == wide and tensor.stride(0) == wide[1] * tensor.stride(1)
            require(one_step or wide[0] == 1 and tensor.shape == wide, f"fused_linear: {name} is {tuple(tensor.shape)}")

    def triton_reason() -> str | None:
        from coltran_kernels.linear import triton  # imports triton, so only when wanted

        return triton.unsupported_reason(x, weight)

    reasons = {"reference": anything, "cpu": anything, "triton": triton_reason, "xla": anything}
    chosen = select("fused_linear", implementation, x, reasons)
    out_dtype = out_dtype or x.dtype
    if chosen == "triton":
        from coltran_kernels.linear import triton

        return triton.fused_linear(pending, weight, epilogue, final, out, out_dtype, eps)
    norm = (layer_norm_xla if chosen == "xla" else layer_norm_reference).add_layer_norm
    return reference.fused_linear(pending, weight, epilogue, out, out_dtype, eps, norm)


def pack_linear(
    weight: Tensor, bias: Tensor | None = None, *, precision: str = "float32", implementation: str | None = None
) -> cpu.PackedLinear | None:
    """A dense layer laid out once for many products without a gradient: `pack_linear(weight, bias).multiply(x)`.

    What a row gives does not depend on the rows beside it, to the bit, on the CPU.

    Args:
        weight: [N, K].
        bias: [N] or None.
        precision: "float32", or "bfloat16": products of values rounded to it, with sums and results in float32.
        implementation: "cpu", "triton" on a GPU, or None; there is nothing to lay out with any other, nor in float32 on
            a GPU.

    Returns:
        The packed layer, a copy of the weights as they are now; None where `linear` serves as well.

    Raises:
        NotImplementedError: bfloat16 where the weights, the implementation or the processor do not serve it.
    """
    chosen = select("pack_linear", implementation, weight, dict.fromkeys(IMPLEMENTATIONS, anything))
    if precision != "float32" and (reason := unsupported_precision(precision, chosen, weight)) is not None:
        raise NotImplementedError(f"pack_linear: {reason}")
    if chosen == "cpu" and native.unsupported_tensors(weight, bias) is None and weight.shape[1] > 0:
        return cpu.pack(weight, bias, precision)
    return None if precision == "float32" else cpu.lay_out(weight, bias, precision, "torch")


def unsupported_precision(precision: str, implementation: str, weight: Tensor) -> str | None:
    """Why an implementation does not multiply by a weight in a precision, or None."""
    if precision == "float32":
        return None
    kind = weight.device.type
    if (implementation, kind) not in (("cpu", "cpu"), ("triton", "cuda")) or weight.dtype != torch.float32:
        found = f"{weight.dtype} on {weight.device} by {implementation!r}"
        return f"{precision} is served on the CPU or a GPU, of float32 weights, not of {found}"
    return cpu.unsupported_bfloat16(weight.device)
