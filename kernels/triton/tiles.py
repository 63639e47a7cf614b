# SPDX-License-Identifier: Apache-2.0
"""What the attention kernels share: which line a program works on, tiles of it, scores, and sums along diagonals.

A tensor [B, H, W, h, C] is addressed as [image, line, position, head, channel], where position runs along the attended
axis and line along the other one: four strides say which is which, so no axis is ever moved.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from coltran_kernels.operators import sum_type

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def whose(LINES, HEADS, BLOCKS: tl.constexpr):
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


INTERPRETED = isinstance(load, InterpretedFunction)


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


def kernel_sum_type(dtype: torch.dtype) -> tl.dtype:
    """`sum_type` under Triton's name."""
    return tl.float64 if sum_type(dtype) == torch.float64 else tl.float32


def strides(tensor: Tensor | None, axis: str) -> tuple[int, int, int, int]:
    """Strides of [B, H, W, h, C] in the order image, line, position, head."""
    if tensor is None:
        return (0, 0, 0, 0)
    image, height, width, head, _ = tensor.stride()
    return (image, height, width, head) if axis == "row" else (image, width, height, head)


def block_of_channels(channels: int) -> int:
    """The power of two that a tile of so many channels takes; products need at least 16."""
    return max(16, triton.next_power_of_2(channels))
