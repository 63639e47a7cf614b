# SPDX-License-Identifier: Apache-2.0
"""The public operations on images: each checks its arguments, picks an implementation (`choose.py`) and calls it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from coltran_kernels import reference
from coltran_kernels.choose import IMPLEMENTATIONS, choose, require, require_choice, serves_natively
from coltran_kernels.cpu import columns, native, torch_ops
from coltran_kernels.cpu import linear as dense
from coltran_kernels.xla import operations

LARGEST_HEAD = 128  # channels, of the Triton kernels of attention
_MODULES: dict[str, Any] = {"reference": reference, "cpu": torch_ops, "xla": operations}


def axial_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    *,
    axis: str,
    causal: bool,
    q_scale: Tensor | None = None,
    q_shift: Tensor | None = None,
    k_scale: Tensor | None = None,
    k_shift: Tensor | None = None,
    v_scale: Tensor | None = None,
    v_shift: Tensor | None = None,
    implementation: str | None = None,
) -> Tensor:
    """Self-attention along one axis of an image (Ho et al., arXiv 1912.12180; ColTran section 3.2).

    Scores are `q.k / sqrt(C) + bias[head, k - q + L - 1]`; with `causal` a query sees positions up to its own.

    Args:
        q, k, v: [B, H, W, h, C], floating point, any strides.
        bias: [h, 2L] with L = W for "row" and H for "column", or None. Its last entry a head is never used.
        axis: "row" attends over the columns of each row, "column" over the rows of each column.
        causal: hide later positions.
        q_scale, ..., v_shift: [B, H, W, h, C] or None; each input becomes `x * scale + shift` first
            (conditional self-attention, ColTran table 1).
        implementation: "reference", "cpu", "triton" (C up to 128), "xla" or None.

    Returns:
        [B, H, W, h, C].

    Raises:
        ValueError: shapes, dtypes or `axis` that do not fit.
        NotImplementedError: the named implementation cannot serve these tensors.
    """
    require(axis in ("row", "column"), f"axial_attention: axis must be 'row' or 'column', got {axis!r}")
    require(q.dim() == 5, f"axial_attention: q must be [B, H, W, h, C], got {tuple(q.shape)}")
    conditions = {
        "k": k, "v": v, "q_scale": q_scale, "q_shift": q_shift, "k_scale": k_scale,
        "k_shift": k_shift, "v_scale": v_scale, "v_shift": v_shift,
    }  # fmt: skip
    for name, tensor in conditions.items():
        if tensor is not None:
            require(tensor.shape == q.shape, f"axial_attention: {name} is {tuple(tensor.shape)}, q {tuple(q.shape)}")
            require(tensor.dtype == q.dtype, f"axial_attention: {name} is {tensor.dtype}, q {q.dtype}")
    if bias is not None:
        expected = (q.shape[3], 2 * q.shape[2 if axis == "row" else 1])
        require(tuple(bias.shape) == expected, f"axial_attention: bias is {tuple(bias.shape)}, expected {expected}")
    chosen = choose("axial_attention", implementation, ("reference", "cpu", "triton", "xla"), q)
    if chosen == "triton" and q.shape[4] > LARGEST_HEAD:
        limit = f"C <= {LARGEST_HEAD}, not {q.shape[4]}"
        require_choice(implementation, f"axial_attention: implementation 'triton' serves {limit}")
        chosen = "reference"
    if chosen == "triton":
        from coltran_kernels.triton import attention  # imports triton, so only when wanted

        operands = (q, q_scale, q_shift, k, k_scale, k_shift, v, v_scale, v_shift)
        return attention.axial_attention(operands, bias, axis=axis, causal=causal)
    return _MODULES[chosen].axial_attention(
        q, k, v, bias, axis=axis, causal=causal, q_scale=q_scale, q_shift=q_shift,
        k_scale=k_scale, k_shift=k_shift, v_scale=v_scale, v_shift=v_shift,
    )  # fmt: skip


def cached_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, *, implementation: str | None = None) -> Tensor:
    """Column attention for one new row, over the KV cache of the rows so far.

    Args:
        q: [B, W, h, C], the queries of the row at position T - 1.
        k, v: [B, T, W, h, C], the rows 0 .. T - 1.
        bias: [h, T], the relative bias of each cached row as seen from this one; minus infinity leaves a row out.
        implementation: "reference", "cpu" (native, float32), "triton", "xla" or None; through "cpu" and "triton" no
            gradient passes.

    Returns:
        [B, W, h, C].

    Raises:
        ValueError: shapes that do not fit.
        NotImplementedError: the named implementation cannot serve these tensors, or not on this machine.
    """
    expected = (q.shape[0], k.shape[1], *q.shape[1:])
    require(
        tuple(k.shape) == expected and k.shape == v.shape,
        f"cached_attention: k is {tuple(k.shape)}, v {tuple(v.shape)}, expected {expected}",
    )
    require(
        tuple(bias.shape) == (q.shape[2], k.shape[1]),
        f"cached_attention: bias is {tuple(bias.shape)}, expected {(q.shape[2], k.shape[1])}",
    )
    chosen = choose("cached_attention", implementation, ("reference", "cpu", "triton", "xla"), q)
    if chosen == "xla":
        return operations.cached_attention(q, k, v, bias)
    if chosen == "triton":
        from coltran_kernels.triton import cached_attention as kept

        return kept.cached_attention(q, k, v, bias)
    if serves_natively("cached_attention", implementation, columns.unsupported(q, k, v, bias)):
        return columns.cached_attention(q, k, v, bias)
    return reference.cached_attention(q, k, v, bias)


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
    chosen = choose("linear", implementation, IMPLEMENTATIONS, x)
    return (torch_ops if chosen == "cpu" else reference).linear(x, weight, bias, relu)


def pack_linear(
    weight: Tensor, bias: Tensor | None = None, *, precision: str = "float32", implementation: str | None = None
) -> dense.PackedLinear | None:
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
    chosen = choose("pack_linear", implementation, IMPLEMENTATIONS, weight)
    unsuited = native.unsuited(weight, bias)
    if chosen == "cpu" and unsuited is None and weight.shape[1] > 0:
        if (reason := dense.why_not(precision)) is not None:
            raise NotImplementedError(f"pack_linear: {reason}")
        return dense.pack(weight, bias, precision)
    if precision != "float32":
        if chosen != "triton" or weight.device.type != "cuda" or weight.dtype != torch.float32:
            found = f"{weight.dtype} on {weight.device} by {chosen!r}"
            raise NotImplementedError(
                f"pack_linear: {precision} is served on the CPU or a GPU, of float32 weights, not of {found}"
            )
        if (reason := dense.why_not(precision, weight.device)) is not None:
            raise NotImplementedError(f"pack_linear: {reason}")
        return dense.lay_out(weight, bias, precision, "torch")
    return None


def add_layer_norm(
    x: Tensor,
    residual: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    eps: float = 1e-3,
    *,
    implementation: str | None = None,
) -> Tensor:
    """Residual sum, layer norm over the last axis, scale and shift: `normalise(x + residual) * scale + shift`.

    Args:
        x: [..., D].
        residual: the same shape, or None.
        scale, shift: broadcastable to x: [D], or per image [B, 1, 1, D] (conditional layer norm, ColTran table 1).
        eps: added to the variance; the original program uses 1e-3.
        implementation: "reference", "cpu", "triton" (scale and shift of those two shapes, D up to 8192), "xla" or None.

    Returns:
        [..., D].

    Raises:
        ValueError: `residual` of another shape than `x`.
        NotImplementedError: the named implementation cannot serve these tensors.
    """
    if residual is not None:
        require(residual.shape == x.shape, f"add_layer_norm: residual is {tuple(residual.shape)}, x {tuple(x.shape)}")
    chosen = choose("add_layer_norm", implementation, ("reference", "cpu", "triton", "xla"), x)
    if chosen == "triton":
        from coltran_kernels.triton import layer_norm

        if layer_norm.serves(x, scale, shift):
            return layer_norm.add_layer_norm(x, residual, scale, shift, eps)
        limits = "D <= 8192, and scale and shift [D] or [B, 1, .., 1, D]"
        require_choice(implementation, f"add_layer_norm: implementation 'triton' serves {limits}")
        chosen = "reference"
    return _MODULES[chosen].add_layer_norm(x, residual, scale, shift, eps)
