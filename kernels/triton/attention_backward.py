# SPDX-License-Identifier: Apache-2.0
"""Axial attention, backward, of a head of a line: P its attention weights, q', k', v' conditioned, G out's gradient,

    dP = G v'^T       dS = P * (dP - delta),  delta_i = sum_j P[i, j] dP[i, j] = G_i . out_i
    dv' = P^T G       dk' = dS^T q' / sqrt(C)       dq' = dS k' / sqrt(C)
    dbias[d + L - 1] = sum of dS along diagonal d, over all lines of all images
    dq = dq' * q_scale,  dq_scale = dq' * q,  dq_shift = dq',  and so on

Up to L = 64 one program has all of a line in one tile and computes P anew (`line_kernel`). Longer lines, and wide ones
in float32, take two kernels: one that owns rows of queries (dq, bias, delta) and one that owns keys (dk, dv); both
recompute P from the LSE of the forward. Nothing is accumulated in memory: each program writes the bias gradient of its
own tile of rows, and these are summed in a fixed order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from coltran_kernels.operators import Operands, sum_type
from coltran_kernels.triton.tiles import (
    block_of_channels,
    diagonals,
    kernel_sum_type,
    load,
    load_conditioned,
    multiply,
    origin,
    scores,
    store,
    strides,
    whose,
)


@triton.jit
def store_gradients(
    grads, grad_strides, operand, strides, d, image, line, head, first,
    ROWS: tl.constexpr, LENGTH: tl.constexpr, C: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Writes the gradients of (x, scale, shift) out of d, that of x * scale + shift."""
    X, SCALE, _ = operand
    DX, DSCALE, DSHIFT = grads
    to = origin(grad_strides, image, line, head)
    if DSHIFT is not None:
        store(DSHIFT, to, grad_strides[2], first, d, ROWS, LENGTH, C, BC)
    if SCALE is not None:
        x = load(X, origin(strides[0], image, line, head), strides[0][2], first, ROWS, LENGTH, C, BC)
        store(DSCALE, to, grad_strides[2], first, d * x, ROWS, LENGTH, C, BC)
        d *= load(SCALE, origin(strides[1], image, line, head), strides[1][2], first, ROWS, LENGTH, C, BC)
    store(DX, to, grad_strides[2], first, d, ROWS, LENGTH, C, BC)


@triton.jit
def line_kernel(
    Q,  # (q, its scale or None, its shift or None)
    K,
    V,
    BIAS,  # [h, 2L] or None
    GRAD,
    DQ,  # gradients of the three of Q; None where there is none
    DK,
    DV,
    DBIAS,  # [B, lines, h, 2N], the sums along diagonals d at d + N; None without a bias
    q_strides,
    k_strides,
    v_strides,
    grad_strides,
    out_strides,  # of all that is written
    lines,
    heads,
    LENGTH: tl.constexpr,
    C: tl.constexpr,
    CAUSAL: tl.constexpr,
    N: tl.constexpr,
    BC: tl.constexpr,
    TYPE: tl.constexpr,
):
    image, line, head, _ = whose(lines, heads, 1)
    q = load_conditioned(Q, q_strides, image, line, head, 0, N, LENGTH, C, BC, TYPE)  # [N, BC]
    k = load_conditioned(K, k_strides, image, line, head, 0, N, LENGTH, C, BC, TYPE)
    s = scores(q, k, BIAS, head, 0, 0, N, N, LENGTH, C, CAUSAL, TYPE)  # [N, N]
    p = tl.exp2(s - tl.max(s, 1)[:, None])
    p = p / tl.sum(p, 1)[:, None]
    grad = load(GRAD, origin(grad_strides, image, line, head), grad_strides[2], 0, N, LENGTH, C, BC)  # [N, BC]
    dv = multiply(tl.trans(p.to(grad.dtype)), grad, TYPE)
    store_gradients(DV, out_strides, V, v_strides, dv, image, line, head, 0, N, LENGTH, C, BC)
    v = load_conditioned(V, v_strides, image, line, head, 0, N, LENGTH, C, BC, TYPE)
    dp = multiply(grad, tl.trans(v), TYPE)  # [N, N]
    ds = p * (dp - tl.sum(p * dp, 1)[:, None])
    if DBIAS is not None:
        below, above = diagonals(ds, N, N)
        to = DBIAS + ((image * lines + line) * heads + head) * 2 * N + tl.arange(0, N)
        tl.store(to, below)
        tl.store(to + N, above)
    ds = (ds * C**-0.5).to(q.dtype)
    dq = multiply(ds, k, TYPE)
    store_gradients(DQ, out_strides, Q, q_strides, dq, image, line, head, 0, N, LENGTH, C, BC)
    dk = multiply(tl.trans(ds), q, TYPE)
    store_gradients(DK, out_strides, K, k_strides, dk, image, line, head, 0, N, LENGTH, C, BC)


@triton.jit
def query_kernel(
    Q,
    K,
    V,
    BIAS,
    OUT,
    LSE,  # [B, lines, h, L]
    GRAD,
    DQ,
    DBIAS,  # [B, lines, h, blocks of queries, (blocks of keys + 1) BK]: diagonal d of the block's rows at d + BK
    DELTA,  # [B, lines, h, L], for key_kernel
    q_strides,
    k_strides,
    v_strides,
    grad_strides,
    out_strides,
    lines,
    heads,
    LENGTH: tl.constexpr,
    C: tl.constexpr,
    CAUSAL: tl.constexpr,
    BQ: tl.constexpr,
    BK: tl.constexpr,  # at least BQ
    BC: tl.constexpr,
    TYPE: tl.constexpr,
):
    BLOCKS: tl.constexpr = (LENGTH + BQ - 1) // BQ  # in Triton 3.6 `cdiv` gives no constant
    image, line, head, block = whose(lines, heads, BLOCKS)
    first = block * BQ
    rows = first + tl.arange(0, BQ)
    here = (image * lines + line) * heads + head
    grad = load(GRAD, origin(grad_strides, image, line, head), grad_strides[2], first, BQ, LENGTH, C, BC)
    out = load(OUT, origin(out_strides, image, line, head), out_strides[2], first, BQ, LENGTH, C, BC)
    delta = tl.sum(grad.to(TYPE) * out.to(TYPE), 1)
    tl.store(DELTA + here * LENGTH + rows, delta, mask=rows < LENGTH)
    lse = tl.load(LSE + here * LENGTH + rows, mask=rows < LENGTH, other=0.0)
    q = load_conditioned(Q, q_strides, image, line, head, first, BQ, LENGTH, C, BC, TYPE)  # [BQ, BC]
    dq = tl.zeros([BQ, BC], TYPE)
    if DBIAS is not None:
        to = DBIAS + (here * BLOCKS + block) * (tl.cdiv(LENGTH, BK) + 1) * BK + tl.arange(0, BK)
        above = tl.zeros([BK], TYPE)
    end = tl.minimum(first + BQ, LENGTH) if CAUSAL else LENGTH
    for start in range(0, end, BK):
        k = load_conditioned(K, k_strides, image, line, head, start, BK, LENGTH, C, BC, TYPE)  # [BK, BC]
        p = tl.exp2(scores(q, k, BIAS, head, first, start, BQ, BK, LENGTH, C, CAUSAL, TYPE) - lse[:, None])
        v = load_conditioned(V, v_strides, image, line, head, start, BK, LENGTH, C, BC, TYPE)
        ds = p * (multiply(grad, tl.trans(v), TYPE) - delta[:, None])  # [BQ, BK]
        if DBIAS is not None:
            below, next_above = diagonals(ds, BQ, BK)
            tl.store(to + start, above + below)  # the diagonals of this tile and of the one before that meet
            above = next_above
        dq += multiply((ds * C**-0.5).to(k.dtype), k, TYPE)
    if DBIAS is not None:
        tl.store(to + tl.cdiv(end, BK) * BK, above)
        for start in range(tl.cdiv(end, BK) * BK + BK, LENGTH + BK, BK):
            tl.store(to + start, tl.zeros([BK], TYPE))
    store_gradients(DQ, out_strides, Q, q_strides, dq, image, line, head, first, BQ, LENGTH, C, BC)


@triton.jit
def key_kernel(
    Q,
    K,
    V,
    BIAS,
    LSE,
    GRAD,
    DELTA,
    DK,
    DV,
    q_strides,
    k_strides,
    v_strides,
    grad_strides,
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
    BLOCKS: tl.constexpr = (LENGTH + BK - 1) // BK
    image, line, head, block = whose(lines, heads, BLOCKS)
    first = block * BK
    here = (image * lines + line) * heads + head
    k = load_conditioned(K, k_strides, image, line, head, first, BK, LENGTH, C, BC, TYPE)  # [BK, BC]
    v = load_conditioned(V, v_strides, image, line, head, first, BK, LENGTH, C, BC, TYPE)
    dk = tl.zeros([BK, BC], TYPE)
    dv = tl.zeros([BK, BC], TYPE)
    begin = first // BQ * BQ if CAUSAL else 0  # earlier queries do not see these keys
    for start in range(begin, LENGTH, BQ):
        rows = start + tl.arange(0, BQ)
        q = load_conditioned(Q, q_strides, image, line, head, start, BQ, LENGTH, C, BC, TYPE)  # [BQ, BC]
        grad = load(GRAD, origin(grad_strides, image, line, head), grad_strides[2], start, BQ, LENGTH, C, BC)
        lse = tl.load(LSE + here * LENGTH + rows, mask=rows < LENGTH, other=0.0)
        delta = tl.load(DELTA + here * LENGTH + rows, mask=rows < LENGTH, other=0.0)
        p = tl.exp2(scores(q, k, BIAS, head, start, first, BQ, BK, LENGTH, C, CAUSAL, TYPE) - lse[:, None])
        dv += multiply(tl.trans(p.to(grad.dtype)), grad, TYPE)
        ds = p * (multiply(grad, tl.trans(v), TYPE) - delta[:, None])  # [BQ, BK]
        dk += multiply(tl.trans((ds * C**-0.5).to(q.dtype)), q, TYPE)
    store_gradients(DK, out_strides, K, k_strides, dk, image, line, head, first, BK, LENGTH, C, BC)
    store_gradients(DV, out_strides, V, v_strides, dv, image, line, head, first, BK, LENGTH, C, BC)


LONGEST_LINE = 64  # in one tile


def is_wide(channels: int, itemsize: int) -> bool:
    """Whether a position takes more than 256 bytes, such as 128 channels of float32: tiles must be smaller."""
    return channels * itemsize > 256


def in_one_tile(length: int, channels: int, itemsize: int) -> bool:
    """Whether `line_kernel` serves."""
    return length <= LONGEST_LINE and not is_wide(channels, itemsize)


class Tiling(NamedTuple):
    """Rows of queries and of keys in a tile, and the warps that work on it."""

    queries: int
    keys: int
    warps: int


def tiling(length: int, channels: int, itemsize: int, *, hip: bool) -> Tiling:
    """Tile sizes that fit every target without spills, but for those in docs/kernels.md."""
    if in_one_tile(length, channels, itemsize):
        side = max(16, triton.next_power_of_2(length))
        return Tiling(side, side, 8)
    if is_wide(channels, itemsize):
        return Tiling(16, 32, 8)
    return Tiling(32, 64, 4 if hip else 8)


def options(warps: int, *, hip: bool) -> dict[str, int]:
    """How the kernels are compiled. Without a limit the assembler may spill a little to stay below 128 registers."""
    return {"num_warps": warps, "num_stages": 1} | ({} if hip else {"maxnreg": 255})


def backward(
    operands: Operands,
    bias: Tensor | None,
    out: Tensor,
    lse: Tensor,
    grad: Tensor,
    *,
    axis: str,
    causal: bool,
) -> list[Tensor]:
    """Launches the kernels; see `register_attention` for what goes in and out."""
    q = operands[0]
    assert q is not None
    batch, height, width, heads, channels = q.shape
    lines, length = (height, width) if axis == "row" else (width, height)
    if grad.stride(-1) != 1:
        grad = grad.contiguous()
    grads = [
        None if operand is None else torch.empty(q.shape, dtype=operand.dtype, device=q.device) for operand in operands
    ]

    def partial_sums(*shape: int) -> Tensor:
        return torch.empty(batch, lines, heads, *shape, dtype=sum_type(q.dtype), device=q.device)

    def triple(tensors: Operands, i: int) -> tuple[Tensor | None, ...]:
        return tuple(tensors[3 * i : 3 * i + 3])

    q_strides, k_strides, v_strides = (tuple(strides(x, axis) for x in triple(operands, i)) for i in range(3))
    common = {
        "Q": triple(operands, 0), "K": triple(operands, 1), "V": triple(operands, 2), "BIAS": bias, "GRAD": grad,
        "q_strides": q_strides, "k_strides": k_strides, "v_strides": v_strides,
        "grad_strides": strides(grad, axis), "out_strides": strides(out, axis), "lines": lines, "heads": heads,
        "LENGTH": length, "C": channels, "CAUSAL": causal, "BC": block_of_channels(channels),
        "TYPE": kernel_sum_type(q.dtype),
    }  # fmt: skip
    dq, dk, dv = (triple(grads, i) for i in range(3))
    programs = batch * lines * heads
    hip = torch.version.hip is not None
    tile = tiling(length, channels, q.element_size(), hip=hip)
    side, rows = tile.keys, tile.queries
    of_queries, of_keys = triton.cdiv(length, rows), triton.cdiv(length, side)
    compiling = options(tile.warps, hip=hip)
    with torch.cuda.device_of(q):
        if in_one_tile(length, channels, q.element_size()):
            dbias = None if bias is None else partial_sums(1, 2 * side)
            line_kernel[(programs,)](**common, DQ=dq, DK=dk, DV=dv, DBIAS=dbias, N=side, **compiling)
        else:
            sizes = {"BQ": rows, "BK": side, **compiling}
            delta = partial_sums(length)
            dbias = None if bias is None else partial_sums(of_queries, (of_keys + 1) * side)
            query_kernel[(programs * of_queries,)](**common, OUT=out, LSE=lse, DQ=dq, DBIAS=dbias, DELTA=delta, **sizes)
            key_kernel[(programs * of_keys,)](**common, LSE=lse, DELTA=delta, DK=dk, DV=dv, **sizes)
    found = [g for g in grads if g is not None]
    if bias is None or dbias is None:
        return found
    return [*found, fold(dbias.sum((0, 1)), length, rows, side).to(bias.dtype)]


def fold(of_blocks: Tensor, length: int, rows: int, side: int) -> Tensor:
    """The table's gradient [h, 2L] out of [h, blocks, entries]: diagonal d of a block of `rows` is at d + side.

    Seen from the whole line, diagonal d of the rows from `first` on is d - first: entry d - first + L - 1 of the table.
    """
    heads, blocks, _ = of_blocks.shape
    table = of_blocks.new_zeros(heads, 2 * length)
    for block in range(blocks):
        shift = length - 1 - side - block * rows
        source = of_blocks[:, block, max(0, -shift) :][:, : 2 * length - max(0, shift)]
        table[:, max(0, shift) :][:, : source.shape[1]] += source
    return table
