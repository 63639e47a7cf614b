# SPDX-License-Identifier: Apache-2.0
"""Axial attention, forward: one head of one line at a time, keys and values by tiles with an online softmax.

    q' = q * q_scale + q_shift, and so on                                [L, C] a line and head
    s[i, j] = q'_i . k'_j / sqrt(C) + bias[head, j - i + L - 1]          -inf for j > i if causal
    out_i = sum_j p[i, j] v'_j,  p = softmax_j(s)                        kept for the backward: log2 sum_j 2^(s log2 e)

A program owns BQ rows of the queries and walks over the keys BK at a time, with the running maximum and sum of each
row. Up to L = 64 a line is one tile. See docs/kernels.md for the picture and the budget.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from coltran_kernels.operators import Operands, may_train, register_attention, sum_type
from coltran_kernels.triton.attention_backward import LONGEST_LINE, Tiling, backward, in_one_tile, is_wide
from coltran_kernels.triton.tiles import (
    block_of_channels,
    kernel_sum_type,
    load_conditioned,
    multiply,
    origin,
    scores,
    store,
    strides,
    whose,
)


@triton.jit
def forward_kernel(
    Q,  # (q, its scale or None, its shift or None)
    K,
    V,
    BIAS,  # [h, 2L] or None
    OUT,
    LSE,  # [B, lines, h, L] or None
    q_strides,  # four of each: image, line, position, head
    k_strides,
    v_strides,
    out_strides,
    lines,
    heads,
    LENGTH: tl.constexpr,
    C: tl.constexpr,
    CAUSAL: tl.constexpr,
    BQ: tl.constexpr,
    BK: tl.constexpr,
    BC: tl.constexpr,
    TYPE: tl.constexpr,
):
    BLOCKS: tl.constexpr = (LENGTH + BQ - 1) // BQ  # in Triton 3.6 `cdiv` gives no constant
    image, line, head, block = whose(lines, heads, BLOCKS)
    first = block * BQ
    q = load_conditioned(Q, q_strides, image, line, head, first, BQ, LENGTH, C, BC, TYPE)  # [BQ, BC]
    highest = tl.full([BQ], float("-inf"), TYPE)
    total = tl.zeros([BQ], TYPE)
    out = tl.zeros([BQ, BC], TYPE)
    end = tl.minimum(first + BQ, LENGTH) if CAUSAL else LENGTH
    for start in range(0, end, BK):
        k = load_conditioned(K, k_strides, image, line, head, start, BK, LENGTH, C, BC, TYPE)  # [BK, BC]
        s = scores(q, k, BIAS, head, first, start, BQ, BK, LENGTH, C, CAUSAL, TYPE)  # [BQ, BK]
        higher = tl.maximum(highest, tl.max(s, 1))  # column 0 is visible to all rows, so never -inf
        p = tl.exp2(s - higher[:, None])
        shrink = tl.exp2(highest - higher)
        total = total * shrink + tl.sum(p, 1)
        v = load_conditioned(V, v_strides, image, line, head, start, BK, LENGTH, C, BC, TYPE)  # [BK, BC]
        out = out * shrink[:, None] + multiply(p.to(v.dtype), v, TYPE)
        highest = higher
    out = out / total[:, None]
    store(OUT, origin(out_strides, image, line, head), out_strides[2], first, out, BQ, LENGTH, C, BC)
    if LSE is not None:
        rows = first + tl.arange(0, BQ)
        lse = LSE + ((image * lines + line) * heads + head) * LENGTH
        tl.store(lse + rows, highest + tl.log2(total), mask=rows < LENGTH)


def tiling(length: int, channels: int, itemsize: int, *, conditioned: bool, hip: bool) -> Tiling:
    """Tile sizes that fit every target without spills (docs/kernels.md has the figures)."""
    if is_wide(channels, itemsize):
        return Tiling(32, 32, 8)
    if length <= LONGEST_LINE:
        side = max(16, triton.next_power_of_2(length))
        return Tiling(side, side, 8 if conditioned else 4)
    return Tiling(64, 64, 4 if hip and not conditioned else 8)


def kept_shape(q: Tensor, axis: str, train: bool) -> tuple[int, ...]:
    """[B, lines, h, L], the LSE of every query, where the backward takes it."""
    batch, height, width, heads, channels = q.shape
    lines, length = (height, width) if axis == "row" else (width, height)
    one_tile = in_one_tile(length, channels, q.element_size())
    return (batch, lines, heads, length) if train and not one_tile else (0,)


def forward(operands: Operands, bias: Tensor | None, *, axis: str, causal: bool, train: bool) -> tuple[Tensor, Tensor]:
    """Launches the kernel; see `register_attention` for what goes in and out."""
    q = operands[0]
    assert q is not None
    batch, height, width, heads, channels = q.shape
    lines, length = (height, width) if axis == "row" else (width, height)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(kept_shape(q, axis, train), dtype=sum_type(q.dtype), device=q.device)
    conditioned = any(operands[i] is not None for i in (1, 2, 4, 5, 7, 8))
    tile = tiling(length, channels, q.element_size(), conditioned=conditioned, hip=torch.version.hip is not None)
    of_operands = [strides(operand, axis) for operand in operands]
    with torch.cuda.device_of(q):
        forward_kernel[(batch * lines * heads * triton.cdiv(length, tile.queries),)](
            tuple(operands[0:3]),
            tuple(operands[3:6]),
            tuple(operands[6:9]),
            bias,
            out,
            lse if lse.numel() else None,
            tuple(of_operands[0:3]),
            tuple(of_operands[3:6]),
            tuple(of_operands[6:9]),
            strides(out, axis),
            lines,
            heads,
            LENGTH=length,
            C=channels,
            CAUSAL=causal,
            BQ=tile.queries,
            BK=tile.keys,
            BC=block_of_channels(channels),
            TYPE=kernel_sum_type(q.dtype),
            num_warps=tile.warps,
            num_stages=1,
        )
    return out, lse


attend = register_attention("triton", forward, backward, kept_shape)


def axial_attention(operands: Operands, bias: Tensor | None, *, axis: str, causal: bool) -> Tensor:
    """`coltran_kernels.axial_attention` of the operands q, q_scale, q_shift, k, ..., v_shift."""
    operands = [t if t is None or t.stride(-1) == 1 else t.contiguous() for t in operands]
    bias = None if bias is None else bias.contiguous()
    return attend(*operands, bias, axis, causal, may_train(*operands, bias))[0]
