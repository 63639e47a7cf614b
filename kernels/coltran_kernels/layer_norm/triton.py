# SPDX-License-Identifier: Apache-2.0
"""Residual sum, layer norm, scale and shift in one pass over the vectors, and one back.

    s = x + residual        n = (s - mean s) * rstd,  rstd = 1 / sqrt(var s + eps)        y = n * scale + shift
    a = dy * scale          ds = rstd * (a - mean a - n * mean(a n))                      dx = dresidual = ds
    dscale = sum of dy * n,  dshift = sum of dy,  over all vectors that share them

x is [I, R, D]: I images of R vectors. Scale and shift are one for all, or one an image. The backward reads x and the
residual again rather than a saved sum: as many bytes, and no third tensor. A program owns some vectors of one image
and sums their share of dscale and dshift; the shares are added in a fixed order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from coltran_kernels.autograd import like_contiguous, spread, sum_type
from coltran_kernels.triton_common import kernel_sum_type


@triton.jit
def load_sum(X, RESIDUAL, rows, columns, R, D: tl.constexpr, BD: tl.constexpr, first_row, TYPE: tl.constexpr):
    """x + residual of some rows of an image that begins at `first_row`, [rows, BD]; zero outside."""
    offsets = (first_row + rows) * D + columns
    inside = rows < R if D == BD else (rows < R) & (columns < D)
    s = tl.load(X + offsets, mask=inside, other=0.0).to(TYPE)
    if RESIDUAL is not None:
        s += tl.load(RESIDUAL + offsets, mask=inside, other=0.0).to(TYPE)
    return s


@triton.jit
def normed(x, columns, inside, scale, shift, eps, D: tl.constexpr):
    """normalise(x) * scale + shift of vectors x [M, BD] float32, zero from D on; scale and shift are addresses."""
    x -= tl.sum(x, 1, keep_dims=True) / D
    if columns.shape[1] > D:
        x = tl.where(columns < D, x, 0.0)
    x *= tl.rsqrt(tl.sum(x * x, 1, keep_dims=True) / D + eps)
    x *= tl.load(scale, mask=inside, other=0.0).to(tl.float32)
    return x + tl.load(shift, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def forward_kernel(
    X,  # [I, R, D]
    RESIDUAL,  # the same, or None
    SCALE,  # [I, D], [D] or None
    SHIFT,
    Y,
    MEAN,  # [I, R]
    RSTD,
    R,
    scale_stride,  # from image to image; 0 where all share one
    shift_stride,
    eps,
    D: tl.constexpr,
    BD: tl.constexpr,
    ROWS: tl.constexpr,
    TYPE: tl.constexpr,
):
    image = tl.program_id(1).to(tl.int64)
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    columns = tl.arange(0, BD)[None, :]
    s = load_sum(X, RESIDUAL, rows, columns, R, D, BD, image * R, TYPE)  # [ROWS, BD]
    mean = tl.sum(s, 1, keep_dims=True) / D
    n = s - mean
    if D != BD:
        n = tl.where(columns < D, n, 0.0)
    rstd = tl.rsqrt(tl.sum(n * n, 1, keep_dims=True) / D + eps)
    y = n * rstd
    if SCALE is not None:
        y *= tl.load(SCALE + image * scale_stride + columns, mask=columns < D, other=0.0).to(TYPE)
    if SHIFT is not None:
        y += tl.load(SHIFT + image * shift_stride + columns, mask=columns < D, other=0.0).to(TYPE)
    inside = rows < R if D == BD else (rows < R) & (columns < D)
    tl.store(Y + (image * R + rows) * D + columns, y.to(Y.dtype.element_ty), mask=inside)
    tl.store(MEAN + image * R + rows, mean, mask=rows < R)
    tl.store(RSTD + image * R + rows, rstd, mask=rows < R)


@triton.jit
def backward_kernel(
    X,
    RESIDUAL,
    SCALE,
    MEAN,
    RSTD,
    DY,
    DX,
    DSCALE,  # [I, programs, D], the shares of each program; None where there is no scale
    DSHIFT,
    R,
    scale_stride,
    D: tl.constexpr,
    BD: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
    TYPE: tl.constexpr,
):
    image = tl.program_id(1).to(tl.int64)
    columns = tl.arange(0, BD)[None, :]
    dscale = tl.zeros([ROWS, BD], TYPE)
    dshift = tl.zeros([ROWS, BD], TYPE)
    if SCALE is not None:
        scale = tl.load(SCALE + image * scale_stride + columns, mask=columns < D, other=0.0).to(TYPE)
    for step in range(STEPS):
        rows = ((tl.program_id(0) * STEPS + step) * ROWS + tl.arange(0, ROWS))[:, None]
        inside = rows < R if D == BD else (rows < R) & (columns < D)
        s = load_sum(X, RESIDUAL, rows, columns, R, D, BD, image * R, TYPE)  # [ROWS, BD]
        mean = tl.load(MEAN + image * R + rows, mask=rows < R, other=0.0).to(TYPE)
        rstd = tl.load(RSTD + image * R + rows, mask=rows < R, other=0.0).to(TYPE)
        n = (s - mean) * rstd
        dy = tl.load(DY + (image * R + rows) * D + columns, mask=inside, other=0.0).to(TYPE)
        dscale += dy * n
        dshift += dy
        a = dy * scale if SCALE is not None else dy
        along = tl.sum(a * n, 1, keep_dims=True) / D  # outside of [R, D] a is zero
        ds = rstd * (a - tl.sum(a, 1, keep_dims=True) / D - n * along)
        tl.store(DX + (image * R + rows) * D + columns, ds.to(DX.dtype.element_ty), mask=inside)
    share = (image * tl.num_programs(0) + tl.program_id(0)) * D + tl.arange(0, BD)
    if DSCALE is not None:
        tl.store(DSCALE + share, tl.sum(dscale, 0), mask=tl.arange(0, BD) < D)
    if DSHIFT is not None:
        tl.store(DSHIFT + share, tl.sum(dshift, 0), mask=tl.arange(0, BD) < D)


def unsupported_reason(x: Tensor, *affine: Tensor | None) -> str | None:
    """Why the kernels cannot serve these tensors, or None."""
    an_image = (x.shape[0], *(1 for _ in x.shape[1:-1]), x.shape[-1])
    if x.shape[-1] <= 8192 and all(t is None or t.shape in (x.shape[-1:], an_image) for t in affine):
        return None
    return "it takes D <= 8192, and scale and shift [D] or [B, 1, .., 1, D]"


def _images(x: Tensor, scale: Tensor | None, shift: Tensor | None) -> tuple[int, int]:
    """Images and vectors an image; all vectors are of one image where they share scale and shift."""
    vectors = x.numel() // x.shape[-1]
    apart = any(t is not None and t.dim() > 1 for t in (scale, shift))
    return (x.shape[0], vectors // x.shape[0]) if apart else (1, vectors)


def _stride(affine: Tensor | None) -> int:
    return affine.shape[-1] if affine is not None and affine.dim() > 1 else 0


class Tiling(NamedTuple):
    """Vectors in a tile, the power of two that one takes, and the warps that work on it."""

    rows: int
    block: int
    warps: int


def tiling(size: int) -> Tiling:
    """Tiles of about 2048 values."""
    block = triton.next_power_of_2(size)
    return Tiling(max(1, 2048 // block), block, 4 if block <= 2048 else 8)


STEPS = 8  # tiles that a program of the backward works through


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def forward(
    x: Tensor, residual: Tensor | None, scale: Tensor | None, shift: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Launches `forward_kernel`; for what goes in and out see `coltran_kernels.add_layer_norm`."""
    images, vectors = _images(x, scale, shift)
    size = x.shape[-1]
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    mean = torch.empty(images * vectors, dtype=sum_type(x.dtype), device=x.device)
    rstd = torch.empty_like(mean)
    x_, residual_, scale_, shift_ = _contiguous(x, residual, scale, shift)
    tile = tiling(size)
    with torch.cuda.device_of(x):
        forward_kernel[(triton.cdiv(vectors, tile.rows), images)](
            x_, residual_, scale_, shift_, y, mean, rstd, vectors, _stride(scale), _stride(shift), eps,
            D=size, BD=tile.block, ROWS=tile.rows, TYPE=kernel_sum_type(x.dtype), num_warps=tile.warps,
        )  # fmt: skip
    return y, mean, rstd


def backward(
    x: Tensor,
    residual: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    grad: Tensor,
) -> list[Tensor]:
    """Launches `backward_kernel`; for what goes in and out see `coltran_kernels.add_layer_norm`."""
    images, vectors = _images(x, scale, shift)
    size = x.shape[-1]
    tile = tiling(size)
    programs = triton.cdiv(vectors, tile.rows * STEPS)
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    shares = [
        None if t is None else torch.empty(images, programs, size, dtype=sum_type(x.dtype), device=x.device)
        for t in (scale, shift)
    ]
    x_, residual_, scale_, grad_ = _contiguous(x, residual, scale, grad)
    with torch.cuda.device_of(x):
        backward_kernel[(programs, images)](
            x_, residual_, scale_, mean, rstd, grad_, dx, *shares, vectors, _stride(scale),
            D=size, BD=tile.block, ROWS=tile.rows, STEPS=STEPS, TYPE=kernel_sum_type(x.dtype), num_warps=tile.warps,
        )  # fmt: skip
    found = [dx]
    for affine, share in zip((scale, shift), shares, strict=True):
        if affine is not None and share is not None:
            total = share.sum(1) if affine.dim() > 1 else share.sum((0, 1))
            found.append(total.view(affine.shape).to(affine.dtype))
    return found


_INPUTS = "Tensor x, Tensor? residual, Tensor? scale, Tensor? shift"
normalise = torch.library.custom_op(
    "coltran_kernels::add_layer_norm_triton",
    forward,
    mutates_args=(),
    schema=f"({_INPUTS}, float eps) -> (Tensor, Tensor, Tensor)",
)
_normalise_backward = torch.library.custom_op(
    "coltran_kernels::add_layer_norm_triton_backward",
    backward,
    mutates_args=(),
    schema=f"({_INPUTS}, Tensor mean, Tensor rstd, Tensor grad) -> Tensor[]",
)


@normalise.register_fake
def _(x: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    statistics = x.new_empty(x.numel() // x.shape[-1], dtype=sum_type(x.dtype))
    return like_contiguous([x])[0], statistics, torch.empty_like(statistics)


@_normalise_backward.register_fake
def _(x: Tensor, _: Any, scale: Tensor | None, shift: Tensor | None, *__: Any) -> list[Tensor]:
    return like_contiguous([x, scale, shift])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:4], *output[1:])


def _gradients(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    _, residual, scale, shift, _, _ = tensors = ctx.saved_tensors
    dx, *others = _normalise_backward(*tensors, grad)
    dscale, dshift = spread(others, (scale, shift))
    return dx, None if residual is None else dx, dscale, dshift, None


normalise.register_autograd(_gradients, setup_context=_keep)
