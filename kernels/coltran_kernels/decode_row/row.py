# SPDX-License-Identifier: Apache-2.0
"""One pass of Jacobi decoding over a row as a function of tensors that stay where they are: what a CUDA graph repeats.

    a layer   qkv | attention | out + x | ff1(norm) | ff2 + norm         5 kernels, conditioning and sums in them
    a pass    the layers | logits(norm(norm)) | draw, compare, say what is final

Each product takes the norm before it and all that follows it, so the paper's pass, of two layers, is 12 kernels.
Sizes: B images, W columns, D hidden size, S labels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from coltran_kernels.attention import row_attention
from coltran_kernels.autograd import sum_type
from coltran_kernels.draw import settle
from coltran_kernels.linear import fused_linear
from coltran_kernels.types import (
    DecoderLayer,
    DecoderWeights,
    Epilogue,
    Pending,
    RowConditioning,
    RowDraws,
    RowLayer,
    RowState,
)

PASSES = 12  # a row of 64 pixels, until the slowest of 20 images has settled (docs/notes/log.md)
KERNEL = 2.7  # microseconds of a small kernel in a graph, with the gap before it: an estimate
RATE = 150e6  # floating-point operations a microsecond in the small tiles of a row: an estimate, 15 % of an H100's
STAGE = 5.8, 1.15  # microseconds of `decode_row`'s stage up to 16 images, measured on an H200, and of each 16 more


def work_of_pass(weights: DecoderWeights, batch: int, width: int) -> tuple[int, int]:
    """Kernels of a pass, and floating-point operations of its products."""
    matrices = [weights.logits, *(m for layer in weights.layers for m in (layer.qkv, layer.out, layer.ff1, layer.ff2))]
    return 5 * len(weights.layers) + 2, 2 * batch * width * sum(m.numel() for m in matrices)


def passes_win(weights: DecoderWeights, batch: int, width: int) -> bool:
    """Whether on a GPU the passes that a row should take cost less than `decode_row` in one launch, by count."""
    kernels, flops = work_of_pass(weights, batch, width)
    in_one_launch = width * (kernels - 1) * (STAGE[0] + STAGE[1] * ((batch - 1) // 16))
    return min(width, PASSES) * (kernels * KERNEL + flops / RATE) <= in_one_launch


def residual_layer(
    pending: Pending,
    layer: DecoderLayer,
    row: RowLayer,
    attend: Callable[[Tensor], Tensor],  # [B, W, 3D] -> [B, W, D]
    *,
    eps: float,
    final: Tensor | None = None,
    implementation: str | None,
) -> Pending:
    """Attention and feed-forward of one layer on a row, each with its residual sum; the last norm is pending."""
    linear = partial(fused_linear, final=final, eps=eps, implementation=implementation)
    qkv, x = linear(pending, layer.qkv, Epilogue(scale=row.qkv_scale, shift=row.qkv_shift))
    x, _ = linear(Pending(attend(qkv)), layer.out, Epilogue(residual=x))
    pending = Pending(x, None, ((row.norm1_scale, row.norm1_shift),))
    hidden, x = linear(pending, layer.ff1, Epilogue(layer.ff1_bias, relu=True))
    x, _ = linear(Pending(hidden), layer.ff2, Epilogue(layer.ff2_bias, False, row.ff_scale, row.ff_shift, x))
    return Pending(x, None, ((row.norm2_scale, row.norm2_shift),))


@torch.no_grad()
def row_pass(
    weights: DecoderWeights,
    conditioning: RowConditioning,
    state: RowState,
    draws: RowDraws,
    *,
    argmax: bool,
    nucleus: bool,
    eps: float,
    implementation: str | None = None,
) -> None:
    """The inner decoder on a row whose labels are guessed, and the draw of all of them.

    Args:
        weights: the inner decoder; its matrices may be of a shorter type than its vectors.
        conditioning: what conditions the row; activations are of its inputs' type.
        state: changed in place.
        draws: how the row is drawn.
        argmax, nucleus: see `settle`.
        eps: of the norms.
        implementation: "reference", "triton", "xla" or None.
    """
    final = state.final
    pending = Pending(conditioning.inputs, (weights.embedding, state.previous))
    for layer, row in zip(weights.layers, conditioning.layers, strict=True):
        attend = partial(row_attention, bias=layer.bias, causal=True, final=final, implementation=implementation)
        pending = residual_layer(pending, layer, row, attend, eps=eps, final=final, implementation=implementation)
    pending = pending._replace(norms=(*pending.norms, (weights.norm_weight, weights.norm_bias)))
    logits, _ = fused_linear(
        pending, weights.logits, Epilogue(weights.logits_bias), final=final, out_dtype=sum_type(pending.x.dtype),
        eps=eps, implementation=implementation,
    )  # fmt: skip
    settle(state, draws, logits, argmax=argmax, nucleus=nucleus, implementation=implementation)
