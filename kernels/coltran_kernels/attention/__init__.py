# SPDX-License-Identifier: Apache-2.0
"""Attention along one axis of an image, over a KV cache, and of operands packed as dense layers leave them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from coltran_kernels import native
from coltran_kernels.attention import cpu, reference, xla
from coltran_kernels.attention.packing import unpack_operands
from coltran_kernels.dispatch import anything, require, select
from coltran_kernels.types import Operand


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
    operands = Operand(q, q_scale, q_shift), Operand(k, k_scale, k_shift), Operand(v, v_scale, v_shift)

    def triton_reason() -> str | None:
        from coltran_kernels.attention import triton  # imports triton, so only when wanted

        return triton.unsupported_reason(q)

    reasons = {"reference": anything, "cpu": anything, "triton": triton_reason, "xla": anything}
    chosen = select("axial_attention", implementation, q, reasons)
    if chosen == "triton":
        from coltran_kernels.attention import triton

        return triton.axial_attention(*operands, bias, axis=axis, causal=causal)
    module: Any = {"reference": reference, "cpu": cpu, "xla": xla}[chosen]
    return module.axial_attention(*operands, bias, axis=axis, causal=causal)


def cached_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, *, implementation: str | None = None) -> Tensor:
    """Column attention for one new row, over the KV cache of the rows so far.

    Args:
        q: [B, W, h, C], the queries of the row at position T - 1.
        k, v: [B, T, W, h, C], the rows 0 .. T - 1.
        bias: [h, T], the relative bias of each cached row as seen from this one; minus infinity leaves a row out.
        implementation: "reference", "cpu" (native, float32; no gradient passes), "xla" or None. On a GPU rows are
            drawn with `append_attention`.

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
    reasons = {
        "reference": anything, "cpu": lambda: cpu.unsupported_cache_reason(q, k, v, bias), "xla": anything,
    }  # fmt: skip
    chosen = select("cached_attention", implementation, q, reasons)
    module: Any = {"reference": reference, "cpu": cpu, "xla": xla}[chosen]
    return module.cached_attention(q, k, v, bias)


def _select_for_row(operation: str, implementation: str | None, qkv: Tensor, bias: Tensor) -> str:
    """Who computes an operation on the packed queries, keys and values [B, W, 3 h C] of a row."""
    heads = len(bias)
    fits = qkv.dim() == 3 and qkv.is_contiguous() and heads > 0 and qkv.shape[-1] % (3 * heads) == 0
    require(fits, f"{operation}: qkv is {tuple(qkv.shape)}, bias {tuple(bias.shape)}, no [B, W, 3 h C] and [h, 2L]")

    def triton_reason() -> str | None:
        from coltran_kernels.attention import triton  # imports triton, so only when wanted

        return triton.unsupported_reason(qkv.unflatten(-1, (3 * heads, -1)))

    reasons = {"reference": anything, "cpu": anything, "triton": triton_reason, "xla": anything}
    return select(operation, implementation, qkv, reasons)


@torch.no_grad()
def row_attention(
    qkv: Tensor, bias: Tensor, *, causal: bool, final: Tensor | None = None, implementation: str | None = None
) -> Tensor:
    """Attention along one row of B images.

    Args:
        qkv: [B, W, 3 h C], contiguous: queries, keys, values, conditioned.
        bias: [h, 2W], see `axial_attention`.
        causal: hide later positions.
        final: [B] int32: what is computed of an image where that is not less than W is undefined.
        implementation: "reference", "triton" (C up to 128), "xla" or None. No gradient passes.

    Returns:
        [B, W, h C].

    Raises:
        ValueError, NotImplementedError: see `axial_attention`.
    """
    chosen = _select_for_row("row_attention", implementation, qkv, bias)
    require(bias.shape[1] == 2 * qkv.shape[1], f"row_attention: bias is {tuple(bias.shape)}, qkv {tuple(qkv.shape)}")
    if chosen == "triton":
        from coltran_kernels.attention import triton

        return triton.row_attention(qkv, bias, causal=causal, final=final)
    operands = map(Operand, qkv[:, None].to(bias.dtype).unflatten(-1, (3, len(bias), -1)).unbind(3))
    module: Any = xla if chosen == "xla" else reference
    return module.axial_attention(*operands, bias, axis="row", causal=causal)[:, 0].flatten(-2).to(qkv.dtype)


@torch.no_grad()
def append_attention(
    qkv: Tensor, cache: Tensor, bias: Tensor, row: Tensor, *, implementation: str | None = None
) -> Tensor:
    """Causal column attention for one new row, whose number is a tensor; its keys and values join the cache.

    Args:
        qkv: [B, W, 3 h C], contiguous: the row's queries, keys and values, conditioned.
        cache: [2, B, W, h, H, C], contiguous, keys and values of the rows before it; changed in place.
        bias: [h, 2H], see `axial_attention`.
        row: [1] int64, 0 .. H - 1.
        implementation: "reference", "triton" (C up to 128), "xla" or None. No gradient passes.

    Returns:
        [B, W, h C].

    Raises:
        ValueError: shapes that do not fit.
        NotImplementedError: the named implementation cannot serve these tensors.
    """
    chosen = _select_for_row("append_attention", implementation, qkv, bias)
    height, channels = bias.shape[1] // 2, qkv.shape[-1] // (3 * len(bias))
    expected = (2, *qkv.shape[:2], len(bias), height, channels)
    require(cache.shape == expected, f"append_attention: cache is {tuple(cache.shape)}, expected {expected}")
    if chosen == "triton":
        from coltran_kernels.attention import triton

        return triton.append_attention(qkv, cache, bias, row)
    return reference.append_attention(qkv, cache, bias, row)


def takes_bfloat16(device: str, channels: int, implementation: str | None = None) -> bool:
    """Whether `packed_attention` takes bfloat16 values of heads of so many channels on this kind of device."""
    if device == "cuda":
        return implementation in (None, "triton") and channels <= 128
    return device == "cpu" and implementation in (None, "cpu") and native.unavailable() is None


def packed_attention(
    qkv: Tensor,
    projected: Tensor | None,
    bias: Tensor,
    *,
    axis: str,
    causal: bool,
    conditioned: str = "",
    scaled: bool = False,
    implementation: str | None = None,
) -> Tensor:
    """`axial_attention` of queries, keys and values out of one tensor, conditioned by scales and shifts out of another.

    Args:
        qkv: [B, H, W, 3 h C]: queries, keys, values, each of h heads.
        projected: [B, H, W, parts h C]: the scale and the shift of each that is conditioned, or its shift alone; None
            where none is.
        bias: [h, 2L], see `axial_attention`.
        axis, causal: see `axial_attention`.
        conditioned: which of "q", "k" and "v" are, in the order in which `projected` has them.
        scaled: whether there are scales.
        implementation: see `axial_attention`. qkv and projected may be bfloat16 where `takes_bfloat16` says so: then
            the products are, and all sums and the softmax float32.

    Returns:
        [B, H, W, h C], of qkv's type.

    Raises:
        ValueError, NotImplementedError: see `axial_attention`.
    """
    require(axis in ("row", "column"), f"packed_attention: axis must be 'row' or 'column', got {axis!r}")
    require(
        set(conditioned) <= set("qkv") and len(set(conditioned)) == len(conditioned),
        f"packed_attention: conditioned names some of 'q', 'k' and 'v', got {conditioned!r}",
    )
    require(
        qkv.dim() == 4 and bias.dim() == 2 and len(bias) > 0 and qkv.shape[-1] % (3 * len(bias)) == 0,
        f"packed_attention: qkv is {tuple(qkv.shape)}, bias {tuple(bias.shape)}, no [B, H, W, 3 h C] and [h, 2L]",
    )
    length = qkv.shape[2 if axis == "row" else 1]
    require(bias.shape[1] == 2 * length, f"packed_attention: bias is {tuple(bias.shape)}, for lines of {length}")
    expected = (*qkv.shape[:-1], len(conditioned) * (2 if scaled else 1) * (qkv.shape[-1] // 3))
    found = None if projected is None else tuple(projected.shape)
    require(
        found == (expected if conditioned else None),
        f"packed_attention: projected is {found}, expected {expected if conditioned else None}",
    )
    if implementation in (None, "cpu") and cpu.takes_packed(qkv, projected, bias):
        return cpu.packed_attention(qkv, projected, bias, axis, causal, conditioned, scaled)
    q, k, v = unpack_operands(qkv, projected, bias.shape[0], conditioned, scaled)
    out = axial_attention(
        q.x, k.x, v.x, bias, axis=axis, causal=causal, q_scale=q.scale, q_shift=q.shift, k_scale=k.scale,
        k_shift=k.shift, v_scale=v.scale, v_shift=v.shift, implementation=implementation,
    )  # fmt: skip
    return out.flatten(-2)
