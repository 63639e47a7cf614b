# SPDX-License-Identifier: Apache-2.0
"""A dense layer with all that stands around it in a residual network, in one kernel: for the few rows of decoding.

    n = x + table[index]                                        the previous label's embedding
    n = normalise(n) * norm_scale + norm_shift                  once, twice or not at all
    y = (relu(n W^T + bias)) * scale + shift + residual

x [M, K] are the M = B W pixels of a row of B images. A program owns BM pixels and BN outputs. Where something precedes
the product it holds all K inputs of its pixels, since a norm needs them, and every program of a pixel repeats what
precedes: that costs less than a kernel of its own would, as long as there are few rows (`MOST_ROWS`; beyond, the norm
is one). The inputs are then cut into G groups, one for each warp, whose products are summed: a single tensor-core tile
of outputs keeps all warps at work. Otherwise a program walks over the inputs BK at a time. Programs whose images are
all final return at once.

Sums, norms and the epilogue are float32. Products of float32 are three of tf32 (`PRECISION`): each operand is split
into two of 11 bits, and the product of the two small ones is left out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from coltran_kernels.layer_norm import triton as layer_norm
from coltran_kernels.linear.reference import normed
from coltran_kernels.types import Epilogue, Pending

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LARGEST = 1024  # inputs that a program holds at once
MOST_ROWS = 2048  # with more, a norm is a kernel of its own
PRECISION = "tf32x3"  # of float32 products on NVIDIA; AMD has units for float32


@triton.jit(do_not_specialize=["rows"])
def linear_kernel(
    X,  # [M, K]
    TABLE,  # [labels, K] or None
    INDEX,  # [M] int64, -1 for none, or None
    norms,  # (scale, shift) of each norm, [K] or [B, K]
    WEIGHT,  # [N, K]
    BIAS,  # [N] or None
    SCALE,  # [M, N] or None
    SHIFT,
    RESIDUAL,  # [M, N] or None
    FINAL,  # [B] int32, how many pixels of each image's row are final, or None
    KEPT,  # [M, K], what is multiplied, or None
    Y,  # [M, N]
    norm_strides,  # from image to image, of each norm's scale and shift
    scale_stride,
    shift_stride,
    rows,
    width,
    eps,
    N: tl.constexpr,
    K: tl.constexpr,
    RELU: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    G: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    m = (tl.program_id(1) * BM + tl.arange(0, BM))[:, None]
    n = (tl.program_id(0) * BN + tl.arange(0, BN))[None, :]
    k = tl.arange(0, BK)
    here = m < rows
    image = m // width
    if FINAL is not None:  # noqa: SIM102  # a constant and a number on the GPU
        if tl.min(tl.load(FINAL + image, mask=here, other=width)) >= width:
            return
    m64 = m.to(tl.int64)
    if K <= BK:
        inside = here & (k[None, :] < K)
        x = tl.load(X + m64 * K + k[None, :], mask=inside, other=0.0).to(tl.float32)  # [BM, BK]
        if TABLE is not None:
            index = tl.load(INDEX + m, mask=here, other=-1)
            x += tl.load(TABLE + index * K + k[None, :], mask=inside & (index >= 0), other=0.0).to(tl.float32)
        for i in tl.static_range(len(norms)):
            scale, shift = norms[i][0] + image * norm_strides[i][0], norms[i][1] + image * norm_strides[i][1]
            x = layer_norm.normed(x, k[None, :], inside, scale + k[None, :], shift + k[None, :], eps, K)
        if KEPT is not None:  # noqa: SIM102
            if tl.program_id(0) == 0:
                tl.store(KEPT + m64 * K + k[None, :], x.to(KEPT.dtype.element_ty), mask=inside)
        of_group = tl.arange(0, G)[:, None, None] * (BK // G) + tl.arange(0, BK // G)[None, :, None]
        w = WEIGHT + n[None] * K + of_group  # [G, BK / G, BN]
        w = tl.load(w, mask=(n < N)[None] & (of_group < K), other=0.0)
        x = tl.reshape(x.to(w.dtype), (BM, G, BK // G)).permute(1, 0, 2)
        y = tl.sum(tl.dot(x, w, input_precision=PRECISION), 0)
    else:
        weights = WEIGHT + n * K + k[:, None]  # [BK, BN]
        y = tl.zeros([BM, BN], tl.float32)
        for start in tl.range(0, K, BK, num_stages=STAGES):
            x = tl.load(X + m64 * K + start + k[None, :], mask=here & (start + k[None, :] < K), other=0.0)
            w = tl.load(weights + start, mask=(n < N) & (start + k[:, None] < K), other=0.0)
            y = tl.dot(x.to(w.dtype), w, y, input_precision=PRECISION)
    both = here & (n < N)
    if BIAS is not None:
        y += tl.load(BIAS + n, mask=n < N, other=0.0).to(tl.float32)
    if RELU:
        y = tl.maximum(y, 0.0, propagate_nan=tl.PropagateNan.ALL)
    if SCALE is not None:
        y *= tl.load(SCALE + m64 * scale_stride + n, mask=both, other=0.0).to(tl.float32)
    if SHIFT is not None:
        y += tl.load(SHIFT + m64 * shift_stride + n, mask=both, other=0.0).to(tl.float32)
    if RESIDUAL is not None:
        y += tl.load(RESIDUAL + m64 * N + n, mask=both, other=0.0).to(tl.float32)
    tl.store(Y + m64 * N + n, y.to(Y.dtype.element_ty), mask=both)


class Tiling(NamedTuple):
    """Pixels, outputs and inputs of a tile; the warps that work on it, and the tiles of inputs in flight."""

    pixels: int
    outputs: int
    inputs: int
    warps: int
    stages: int


def tiling(rows: int, inputs: int, itemsize: int, *, before: bool, hip: bool) -> Tiling:
    """By count: with few rows many small programs, each waiting for memory once; with many, fewer bytes a product.

    `before` says whether something precedes the product. AMD's programs have 64 KiB of shared memory.
    """
    block, short = max(16, triton.next_power_of_2(inputs)), itemsize == 2
    if (rows <= 256 and inputs <= LARGEST) or (before and hip):
        return Tiling(16, 32 if short else 16, block, 8, 1)
    if before:
        return Tiling(32 if short else 16, 64 if short else 32, block, 8, 1)
    return Tiling(64, 64, 64 if short else 32, 4, 3)


def unsupported_reason(x: Tensor, weight: Tensor) -> str | None:
    """Why the kernel cannot serve these tensors, or None."""
    wrong = [t.dtype for t in (x, weight) if t.dtype not in DTYPES]
    return f"it serves float32, float16 and bfloat16, not {wrong[0]}" if wrong else None


def fused_linear(
    pending: Pending,
    weight: Tensor,
    epilogue: Epilogue,
    final: Tensor | None,
    out: Tensor | None,
    out_dtype: torch.dtype,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """See `coltran_kernels.fused_linear`."""
    images, width, inputs = pending.x.shape
    rows, outputs = images * width, weight.shape[0]
    before = pending.embedded is not None or len(pending.norms) > 0
    if before and (rows > MOST_ROWS or inputs > LARGEST):
        pending = Pending(normed(pending, eps, lambda *arguments: layer_norm.forward(*arguments)[0]))
        before = False
    x, (table, index) = pending.x, pending.embedded or (None, None)
    kept = torch.empty_like(x) if before else x
    y = torch.empty(images, width, outputs, dtype=out_dtype, device=x.device) if out is None else out
    bias, relu, scale, shift, residual = epilogue
    hip = torch.version.hip is not None
    tile = tiling(rows, inputs, weight.element_size(), before=before, hip=hip)
    with torch.cuda.device_of(x):
        linear_kernel[(triton.cdiv(outputs, tile.outputs), triton.cdiv(rows, tile.pixels))](
            x, table, index, pending.norms, weight, bias, scale, shift, residual, final, kept if before else None, y,
            tuple(tuple(0 if t.dim() == 1 else t.stride(0) for t in norm) for norm in pending.norms),
            0 if scale is None else scale.stride(1), 0 if shift is None else shift.stride(1), rows, width, eps,
            N=outputs, K=inputs, RELU=relu, BM=tile.pixels, BN=tile.outputs, BK=tile.inputs,
            G=min(tile.warps, tile.inputs // 16), STAGES=tile.stages,
            PRECISION="ieee" if hip else PRECISION, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return y, kept
