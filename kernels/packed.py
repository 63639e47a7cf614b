# SPDX-License-Identifier: Apache-2.0
"""Axial attention of operands as dense layers leave them: several side by side in one tensor, their gradients too."""

from __future__ import annotations

from torch import Tensor

from coltran_kernels import ops
from coltran_kernels.choose import require
from coltran_kernels.cpu import native, packed
from coltran_kernels.shapes import operands_of


def takes_bfloat16(device: str, channels: int, implementation: str | None = None) -> bool:
    """Whether `packed_attention` takes bfloat16 values of heads of so many channels on this kind of device."""
    if device == "cuda":
        return implementation in (None, "triton") and channels <= ops.LARGEST_HEAD
    return device == "cpu" and implementation in (None, "cpu") and native.expected()


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
    if implementation in (None, "cpu") and packed.serves(qkv, projected, bias):
        return packed.attention(qkv, projected, bias, axis, causal, conditioned, scaled)
    operands = operands_of(qkv, projected, bias.shape[0], conditioned, scaled)
    y = ops.axial_attention(**operands, bias=bias, axis=axis, causal=causal, implementation=implementation)
    return y.flatten(-2)
