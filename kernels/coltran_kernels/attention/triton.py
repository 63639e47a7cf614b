# SPDX-License-Identifier: Apache-2.0
"""Axial attention and attention over a KV cache in Triton: forward, backward, and for one new row.

Forward, one head of one line at a time, keys and values by tiles with an online softmax:

    q' = q * q_scale + q_shift, and so on                                [L, C] a line and head
    s[i, j] = q'_i . k'_j / sqrt(C) + bias[head, j - i + L - 1]          -inf for j > i if causal
    out_i = sum_j p[i, j] v'_j,  p = softmax_j(s)                        kept for the backward: log2 sum_j 2^(s log2 e)

A program owns BQ rows of the queries and walks over the keys BK at a time, with the running maximum and sum of each
row. Up to L = 64 a line is one tile. See docs/notes/kernels.md for the picture and the budget.

Backward, with G the gradient of out:

    dP = G v'^T       dS = P * (dP - delta),  delta_i = sum_j P[i, j] dP[i, j] = G_i . out_i
    dv' = P^T G       dk' = dS^T q' / sqrt(C)       dq' = dS k' / sqrt(C)
    dbias[d + L - 1] = sum of dS along diagonal d, over all lines of all images
    dq = dq' * q_scale,  dq_scale = dq' * q,  dq_shift = dq',  and so on

Up to L = 64 one program has all of a line in one tile and computes P anew (`line_kernel`). Longer lines, and wide ones
in float32, take two kernels: one that owns rows of queries (dq, bias, delta) and one that owns keys (dk, dv); both
recompute P from the LSE of the forward. Nothing is accumulated in memory: each program writes the bias gradient of its
own tile of rows, and these are summed in a fixed order.

Over a KV cache there is a single query a head, so each key and value is read once and there is no matrix product. A
program owns one head of one column, puts the row's own key and value into the cache and walks over the rows before it
BT at a time. The number of the row is read from memory: one launch, in a CUDA graph say, serves all rows.

A tensor [B, H, W, h, C] is addressed as [image, line, position, head, channel], where position runs along the attended
axis and line along the other one: four strides say which is which, so no axis is ever moved.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from coltran_kernels.attention.registration import Operands, register_attention
from coltran_kernels.autograd import may_train, sum_type
from coltran_kernels.triton_common import kernel_sum_type
from coltran_kernels.types import Operand

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def program_coordinates(LINES, HEADS, BLOCKS: tl.constexpr):
    """This program's (image, line, head, block of its line); neighbours share a line, then an image."""
    program = tl.program_id(0)
    block = program % BLOCKS
    head = (program // BLOCKS) % HEADS
    line = (program // BLOCKS // HEADS) % LINES
    return (program // BLOCKS // HEADS // LINES).to(tl.int64), line.to(tl.int64), head, block


@triton.jit
def origin(strides, image, line, head):
    """Where a head's line begins, in elements; 64 bits, as large images have more than 2^31 elements."""
    return image * strides[0] + line * strides[1] + head * strides[3]


@triton.jit
def load(X, start, stride, first, ROWS: tl.constexpr, LENGTH: tl.constexpr, C: tl.constexpr, BC: tl.constexpr):
    """Rows from `first` on of a line that begins at `start`, [ROWS, BC]; zero outside of [LENGTH, C]."""
    rows = first + tl.arange(0, ROWS)[:, None]
    channels = tl.arange(0, BC)[None, :]
    if LENGTH % ROWS == 0 and C == BC:
        x = tl.load(X + start + rows * stride + channels)
    else:
        x = tl.load(X + start + rows * stride + channels, mask=(rows < LENGTH) & (channels < C), other=0.0)
    return x


@triton.jit
def store(X, start, stride, first, x, ROWS: tl.constexpr, LENGTH: tl.constexpr, C: tl.constexpr, BC: tl.constexpr):
    """The inverse of `load`; rounds to the type of the tensor."""
    rows = first + tl.arange(0, ROWS)[:, None]
    channels = tl.arange(0, BC)[None, :]
    x = x.to(X.dtype.element_ty)
    if LENGTH % ROWS == 0 and C == BC:
        tl.store(X + start + rows * stride + channels, x)
    else:
        tl.store(X + start + rows * stride + channels, x, mask=(rows < LENGTH) & (channels < C))


@triton.jit
def load_conditioned(
    operand, strides, image, line, head, first,
    ROWS: tl.constexpr, LENGTH: tl.constexpr, C: tl.constexpr, BC: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """`x * scale + shift` of an operand (x, scale or None, shift or None), rounded once to the type of x."""
    X, SCALE, SHIFT = operand
    x = load(X, origin(strides[0], image, line, head), strides[0][2], first, ROWS, LENGTH, C, BC)
    if SCALE is not None or SHIFT is not None:
        x = x.to(TYPE)
        if SCALE is not None:
            x *= load(SCALE, origin(strides[1], image, line, head), strides[1][2], first, ROWS, LENGTH, C, BC)
        if SHIFT is not None:
            x += load(SHIFT, origin(strides[2], image, line, head), strides[2][2], first, ROWS, LENGTH, C, BC)
        # A maximum over an axis of one value is x itself, and not moved by the compiler: it would do the arithmetic in
        # the layout of the product's operand, in which each warp holds the whole tile, and spill.
        x = tl.max(x[:, :, None], 2).to(X.dtype.element_ty)
        tl.debug_barrier()  # else all loads are moved to the front, more than the registers hold
    return x


@triton.jit
def multiply(a, b, TYPE: tl.constexpr):
    """a b with exact products; sums in TYPE."""
    return tl.dot(a, b, input_precision="ieee", out_dtype=TYPE)


@triton.jit
def scores(
    q, k, BIAS, head, first_row, first_column,
    BQ: tl.constexpr, BK: tl.constexpr, LENGTH: tl.constexpr, C: tl.constexpr, CAUSAL: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """log2 of the unnormalised attention of rows to columns, [BQ, BK]; -inf where there is none."""
    rows = first_row + tl.arange(0, BQ)[:, None]
    columns = first_column + tl.arange(0, BK)[None, :]
    s = multiply(q, tl.trans(k), TYPE) * (LOG2E * C**-0.5)
    inside = columns < LENGTH
    if BIAS is not None:
        bias = BIAS + head * 2 * LENGTH + (columns - rows + (LENGTH - 1))
        s += tl.load(bias, mask=inside & (rows < LENGTH), other=0.0).to(TYPE) * LOG2E
    if CAUSAL:
        inside = inside & (columns <= rows)
    if CAUSAL or LENGTH % BK != 0:
        s = tl.where(inside, s, float("-inf"))
    return s


@triton.jit
def diagonals(x, R: tl.constexpr, N: tl.constexpr):
    """Sums of a tile x [R, N], R <= N, along its diagonals d = column - row.

    Row i is rotated left by i, so that a diagonal becomes a column: entry (i, t) is x[i, (i + t) mod N], which lies
    on diagonal t, or on t - N where it was carried round. Returns [N] each: of diagonals t - N, and of diagonals t.
    """
    i = tl.arange(0, R)[:, None]
    t = tl.arange(0, N)[None, :]
    turned = tl.gather(x, (i + t) % N, axis=1)
    carried = i + t >= N
    return tl.sum(tl.where(carried, turned, 0.0), 0), tl.sum(tl.where(carried, 0.0, turned), 0)


@triton.jit
def forward_kernel(
    Q,  # (q, its scale or None, its shift or None)
    K,
    V,
    BIAS,  # [h, 2L] or None
    OUT,
    LSE,  # [B, lines, h, L] or None
    FINAL,  # [B] int32, or None: an image in which as many positions as a line has are final is left alone
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
    image, line, head, block = program_coordinates(lines, heads, BLOCKS)
    if FINAL is not None:  # noqa: SIM102  # a constant and a number on the GPU
        if tl.load(FINAL + image) >= LENGTH:
            return
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


@triton.jit
def store_gradients(
    grads, grad_strides, operand, strides, d, coordinates, first,
    ROWS: tl.constexpr, LENGTH: tl.constexpr, C: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Writes the gradients of (x, scale, shift) out of d, that of x * scale + shift; coordinates: image, line, head."""
    image, line, head = coordinates
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
    image, line, head, _ = program_coordinates(lines, heads, 1)
    q = load_conditioned(Q, q_strides, image, line, head, 0, N, LENGTH, C, BC, TYPE)  # [N, BC]
    k = load_conditioned(K, k_strides, image, line, head, 0, N, LENGTH, C, BC, TYPE)
    s = scores(q, k, BIAS, head, 0, 0, N, N, LENGTH, C, CAUSAL, TYPE)  # [N, N]
    p = tl.exp2(s - tl.max(s, 1)[:, None])
    p = p / tl.sum(p, 1)[:, None]
    grad = load(GRAD, origin(grad_strides, image, line, head), grad_strides[2], 0, N, LENGTH, C, BC)  # [N, BC]
    dv = multiply(tl.trans(p.to(grad.dtype)), grad, TYPE)
    store_gradients(DV, out_strides, V, v_strides, dv, (image, line, head), 0, N, LENGTH, C, BC)
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
    store_gradients(DQ, out_strides, Q, q_strides, dq, (image, line, head), 0, N, LENGTH, C, BC)
    dk = multiply(tl.trans(ds), q, TYPE)
    store_gradients(DK, out_strides, K, k_strides, dk, (image, line, head), 0, N, LENGTH, C, BC)


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
    image, line, head, block = program_coordinates(lines, heads, BLOCKS)
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
    store_gradients(DQ, out_strides, Q, q_strides, dq, (image, line, head), first, BQ, LENGTH, C, BC)


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
    image, line, head, block = program_coordinates(lines, heads, BLOCKS)
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
    store_gradients(DK, out_strides, K, k_strides, dk, (image, line, head), first, BK, LENGTH, C, BC)
    store_gradients(DV, out_strides, V, v_strides, dv, (image, line, head), first, BK, LENGTH, C, BC)


def strides(tensor: Tensor | None, axis: str) -> tuple[int, int, int, int]:
    """Strides of [B, H, W, h, C] in the order image, line, position, head."""
    if tensor is None:
        return (0, 0, 0, 0)
    image, height, width, head, _ = tensor.stride()
    return (image, height, width, head) if axis == "row" else (image, width, height, head)


def block_of_channels(channels: int) -> int:
    """The power of two that a tile of so many channels takes; products need at least 16."""
    return max(16, triton.next_power_of_2(channels))


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


def backward_tiling(length: int, channels: int, itemsize: int, *, hip: bool) -> Tiling:
    """Tile sizes that fit every target without spills, but for those in docs/notes/kernels.md."""
    if in_one_tile(length, channels, itemsize):
        side = max(16, triton.next_power_of_2(length))
        return Tiling(side, side, 8)
    if is_wide(channels, itemsize):
        return Tiling(16, 32, 8)
    return Tiling(32, 64, 4 if hip else 8)


def backward_options(warps: int, *, hip: bool) -> dict[str, int]:
    """How the kernels are compiled. Without a limit the assembler may spill a little to stay below 128 registers."""
    return {"num_warps": warps, "num_stages": 1} | ({} if hip else {"maxnreg": 255})


def forward_tiling(length: int, channels: int, itemsize: int, *, conditioned: bool, hip: bool) -> Tiling:
    """Tile sizes that fit every target without spills (docs/notes/kernels.md has the figures)."""
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


def forward(
    operands: Operands, bias: Tensor | None, *, axis: str, causal: bool, train: bool, final: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Launches the kernel; see `register_attention` for what goes in and out, and `row_attention` for `final`."""
    q = operands[0]
    assert q is not None
    batch, height, width, heads, channels = q.shape
    lines, length = (height, width) if axis == "row" else (width, height)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(kept_shape(q, axis, train), dtype=sum_type(q.dtype), device=q.device)
    conditioned = any(operands[i] is not None for i in (1, 2, 4, 5, 7, 8))
    tile = forward_tiling(
        length, channels, q.element_size(), conditioned=conditioned, hip=torch.version.hip is not None
    )
    of_operands = [strides(operand, axis) for operand in operands]
    with torch.cuda.device_of(q):
        forward_kernel[(batch * lines * heads * triton.cdiv(length, tile.queries),)](
            tuple(operands[0:3]),
            tuple(operands[3:6]),
            tuple(operands[6:9]),
            bias,
            out,
            lse if lse.numel() else None,
            final,
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
    tile = backward_tiling(length, channels, q.element_size(), hip=hip)
    side, rows = tile.keys, tile.queries
    of_queries, of_keys = triton.cdiv(length, rows), triton.cdiv(length, side)
    compiling = backward_options(tile.warps, hip=hip)
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


attend = register_attention("triton", forward, backward, kept_shape)


LARGEST_HEAD = 128  # channels


def unsupported_reason(q: Tensor) -> str | None:
    """Why the kernels of axial attention cannot serve heads such as q's, or None."""
    return None if q.shape[-1] <= LARGEST_HEAD else f"it takes C <= {LARGEST_HEAD}, not {q.shape[-1]}"


def axial_attention(q: Operand, k: Operand, v: Operand, bias: Tensor | None, *, axis: str, causal: bool) -> Tensor:
    """See `coltran_kernels.axial_attention`."""
    operands = [t if t is None or t.stride(-1) == 1 else t.contiguous() for t in (*q, *k, *v)]
    bias = None if bias is None else bias.contiguous()
    return attend(*operands, bias, axis, causal, may_train(*operands, bias))[0]


def row_attention(qkv: Tensor, bias: Tensor, *, causal: bool, final: Tensor | None) -> Tensor:
    """See `coltran_kernels.row_attention`."""
    q, k, v = qkv[:, None].unflatten(-1, (3, len(bias), -1)).unbind(3)
    operands = (q, None, None, k, None, None, v, None, None)
    return forward(operands, bias, axis="row", causal=causal, train=False, final=final)[0][:, 0].flatten(-2)


CACHED_ROWS = 32  # cached rows at a time: 16 KB of float32 keys at C = 128


@triton.jit
def append_kernel(
    QKV,  # [B, W, 3, h, C]
    CACHE,  # [2, B, W, h, H, C], keys and values
    TABLE,  # [h, 2H]
    ROW,  # [1] int64
    OUT,  # [B, W, h, C]
    HEADS: tl.constexpr,
    HEIGHT: tl.constexpr,
    C: tl.constexpr,
    BC: tl.constexpr,
    BT: tl.constexpr,
    TYPE: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    head = program % HEADS
    channels = tl.arange(0, BC)
    there = channels < C
    row = tl.load(ROW).to(tl.int32)
    own = QKV + (program // HEADS * 3 * HEADS + head) * C + channels
    q = tl.load(own, mask=there, other=0.0).to(TYPE) * (LOG2E * C**-0.5)
    k = tl.load(own + HEADS * C, mask=there, other=0.0)
    v = tl.load(own + 2 * HEADS * C, mask=there, other=0.0)
    keys = CACHE + program * (HEIGHT * C) + channels
    values = keys + tl.num_programs(0).to(tl.int64) * (HEIGHT * C)
    tl.store(keys + row * C, k, mask=there)
    tl.store(values + row * C, v, mask=there)
    bias = TABLE + head * 2 * HEIGHT + (HEIGHT - 1)
    highest = tl.sum(q * k.to(TYPE), 0) + tl.load(bias).to(TYPE) * LOG2E
    total = highest * 0 + 1
    out = v.to(TYPE)
    for start in range(0, row, BT):
        rows = start + tl.arange(0, BT)
        known = rows < row
        both = known[:, None] & there[None, :]
        past = tl.load(keys[None, :] + rows[:, None] * C, mask=both, other=0.0).to(TYPE)  # [BT, BC]
        of_rows = tl.load(bias + rows - row, mask=known, other=0.0).to(TYPE) * LOG2E
        s = tl.where(known, tl.sum(past * q[None, :], 1) + of_rows, float("-inf"))
        higher = tl.maximum(highest, tl.max(s, 0))
        p = tl.exp2(s - higher)
        shrink = tl.exp2(highest - higher)
        past = tl.load(values[None, :] + rows[:, None] * C, mask=both, other=0.0).to(TYPE)
        total = total * shrink + tl.sum(p, 0)
        out = out * shrink + tl.sum(p[:, None] * past, 0)
        highest = higher
    tl.store(OUT + program * C + channels, (out / total).to(OUT.dtype.element_ty), mask=there)


def append_attention(qkv: Tensor, cache: Tensor, bias: Tensor, row: Tensor) -> Tensor:
    """See `coltran_kernels.append_attention`."""
    _, batch, width, heads, height, channels = cache.shape
    out = torch.empty(batch, width, heads * channels, dtype=qkv.dtype, device=qkv.device)
    with torch.cuda.device_of(qkv):
        append_kernel[(batch * width * heads,)](
            qkv, cache, bias, row, out, HEADS=heads, HEIGHT=height, C=channels, BC=block_of_channels(channels),
            BT=CACHED_ROWS, TYPE=kernel_sum_type(qkv.dtype),
        )  # fmt: skip
    return out
