# SPDX-License-Identifier: Apache-2.0
"""Column attention for one new row over the cached keys and values of its columns: a single query a head.

    s[t] = q . k[t] / sqrt(C) + bias[head, t]        out = sum_t softmax(s)[t] v[t]

No queries share anything, so it reads each key and value once and does no matrix product. A program owns one head of
one column and walks over the rows BT at a time, with the running maximum and sum. The number of rows is not a constant
of the kernel: it grows with every row of an image, and one compilation serves them all.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from coltran_kernels.triton.tiles import LOG2E, block_of_channels, kernel_sum_type

ROWS = 32  # cached rows at a time: 16 KB of float32 keys at C = 128


@triton.jit(do_not_specialize=["length"])
def kernel(
    Q,  # [B, W, h, C]
    K,  # [B, T, W, h, C]
    V,
    BIAS,  # [h, T]
    OUT,  # [B, W, h, C], contiguous
    q_strides,  # image, column, head
    k_strides,  # image, row, column, head
    v_strides,
    bias_strides,  # head, row
    width,
    heads,
    length,  # T
    C: tl.constexpr,
    BC: tl.constexpr,
    BT: tl.constexpr,
    TYPE: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    head, column, image = program % heads, program // heads % width, program // heads // width
    channels = tl.arange(0, BC)
    there = channels < C
    q = tl.load(
        Q + image * q_strides[0] + column * q_strides[1] + head * q_strides[2] + channels, mask=there, other=0.0
    )
    q = q.to(TYPE) * (LOG2E * C**-0.5)
    keys = K + image * k_strides[0] + column * k_strides[2] + head * k_strides[3] + channels[None, :]
    values = V + image * v_strides[0] + column * v_strides[2] + head * v_strides[3] + channels[None, :]
    highest = tl.full([], -3e38, TYPE)  # a number, so that a tile of rows that are all left out adds nothing
    total = tl.zeros([], TYPE)
    out = tl.zeros([BC], TYPE)
    for start in range(0, length, BT):
        rows = start + tl.arange(0, BT)
        known = rows < length
        both = known[:, None] & there[None, :]
        k = tl.load(keys + rows[:, None] * k_strides[1], mask=both, other=0.0).to(TYPE)  # [BT, BC]
        bias = tl.load(BIAS + head * bias_strides[0] + rows * bias_strides[1], mask=known, other=0.0)
        s = tl.where(known, tl.sum(k * q[None, :], 1) + bias.to(TYPE) * LOG2E, float("-inf"))
        higher = tl.maximum(highest, tl.max(s, 0))
        p = tl.exp2(s - higher)
        shrink = tl.exp2(highest - higher)
        v = tl.load(values + rows[:, None] * v_strides[1], mask=both, other=0.0).to(TYPE)
        total = total * shrink + tl.sum(p, 0)
        out = out * shrink + tl.sum(p[:, None] * v, 0)
        highest = higher
    tl.store(OUT + program * C + channels, (out / total).to(OUT.dtype.element_ty), mask=there)


@torch.no_grad()
def cached_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """See `coltran_kernels.cached_attention`."""
    batch, width, heads, channels = q.shape
    q, k, v = (t if t.stride(-1) == 1 else t.contiguous() for t in (q, k, v))
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    with torch.cuda.device_of(q):
        kernel[(batch * width * heads,)](
            q, k, v, bias, out, q.stride()[:3], k.stride()[:4], v.stride()[:4], bias.stride(), width, heads, k.shape[1],
            C=channels, BC=block_of_channels(channels), BT=ROWS, TYPE=kernel_sum_type(q.dtype),
        )  # fmt: skip
    return out
