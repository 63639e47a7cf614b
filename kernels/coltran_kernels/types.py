# SPDX-License-Identifier: Apache-2.0
"""What operations take and give: operands of attention, the inner decoder's weights, what conditions a row, the row.

Sizes: B images, W pixels a row, D hidden size, F feed-forward size, h heads of C = D / h channels, S labels.
Matrices are stored as torch.nn.Linear stores them, [out, in].
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Operand(NamedTuple):
    """Queries, keys or values, used as `x * scale + shift` (conditional self-attention, ColTran table 1)."""

    x: Tensor  # [B, H, W, h, C]
    scale: Tensor | None = None  # the same shape
    shift: Tensor | None = None


Affine = tuple[Tensor, Tensor]  # scale and shift of a norm, [D] or [B, D]


class Pending(NamedTuple):
    """What a product on a row takes: x, before a previous label's embedding is added and norms are computed."""

    x: Tensor  # [B, W, D], contiguous
    embedded: tuple[Tensor, Tensor] | None = None  # a table [labels, D] and an index [B, W] of it, -1 for nothing
    norms: tuple[Affine, ...] = ()  # layer norms one after another; at most two


class Epilogue(NamedTuple):
    """What follows a product y [B, W, N] on a row: `relu(y + bias) * scale + shift + residual`."""

    bias: Tensor | None = None  # [N]
    relu: bool = False
    scale: Tensor | None = None  # [B, W, N], may be part of a wider tensor
    shift: Tensor | None = None
    residual: Tensor | None = None  # [B, W, N], contiguous


class SamplingOptions(NamedTuple):
    """How a row is drawn."""

    mode: str = "sample"  # or "argmax", the first of the most probable labels
    temperature: float = 1.0  # divides the logits before the draw; > 0
    top_p: float = 1.0  # draw from the most probable labels that together hold this probability; in (0, 1]
    given: Tensor | None = None  # [B, W] labels to impose, -1 where the pixel is to be drawn
    guidance: Tensor | None = None  # [B, W, S] float32, added to the logits before temperature and top-p
    return_probabilities: bool = False  # also return the untempered, unguided distributions
    eps: float = 1e-3  # of the layer norms


class DecoderLayer(NamedTuple):
    """Weights of one inner-decoder layer: masked row attention, then feed-forward."""

    qkv: Tensor  # [3D, D], queries first, then keys, then values
    bias: Tensor  # [h, 2W] relative position table, read at k - q + W - 1
    out: Tensor  # [D, D]
    ff1: Tensor  # [F, D]
    ff1_bias: Tensor  # [F]
    ff2: Tensor  # [D, F]
    ff2_bias: Tensor  # [D]


class DecoderWeights(NamedTuple):
    """Weights of the inner decoder with its embedding and its head."""

    embedding: Tensor  # [S, D], the embedding of each label
    layers: tuple[DecoderLayer, ...]
    norm_weight: Tensor  # [D], the final layer norm
    norm_bias: Tensor  # [D]
    logits: Tensor  # [S, D]
    logits_bias: Tensor  # [S]


class RowLayer(NamedTuple):
    """What conditions one layer along one row. A pair that is None conditions nothing."""

    qkv_scale: Tensor | None  # [B, W, 3D]
    qkv_shift: Tensor | None  # [B, W, 3D]
    ff_scale: Tensor | None  # [B, W, D]
    ff_shift: Tensor | None  # [B, W, D]
    norm1_scale: Tensor  # [B, D] or [D], of the norm after attention
    norm1_shift: Tensor
    norm2_scale: Tensor  # [B, D] or [D], of the norm after the feed-forward
    norm2_shift: Tensor


class DecodedRow(NamedTuple):
    """One row as it was drawn."""

    labels: Tensor  # [B, W] int64
    log_prob: Tensor  # [B, W], natural, of the drawn labels under the untempered, unguided model
    probabilities: Tensor | None  # [B, W, S], untempered, unguided
    guided_log_prob: Tensor  # [B, W], the same with the guidance added to the logits; log_prob where there is none


class RowConditioning(NamedTuple):
    """Everything about one row that depends on the gray image and the rows above alone."""

    inputs: Tensor  # [B, W, D], position embedding plus, with skip connections, the context
    layers: tuple[RowLayer, ...]


class RowDraws(NamedTuple):
    """How the rows of B images are drawn, as tensors that one launch after another reads."""

    uniforms: Tensor  # [B, H, W] in [0, 1)
    given: Tensor | None  # [B, H, W] int64 labels to impose, -1 where the pixel is to be drawn
    guidance: Tensor | None  # [B, H, W, S] float32, added to the logits before temperature and top-p
    knobs: Tensor  # [2] float32: temperature, top-p


class RowState(NamedTuple):
    """B images while their rows are drawn by Jacobi decoding: changed in place, by kernels alone."""

    rows: Tensor  # [2] int64: the row above, and the row that is drawn
    labels: Tensor  # [B, H, W] int64
    log_prob: Tensor  # [B, H, W], natural, of the labels under the untempered, unguided model
    guided_log_prob: Tensor  # [B, H, W], the same with guidance; without it the same tensor
    probabilities: Tensor | None  # [B, H, W, S], untempered, unguided
    above: Tensor  # [B, W] int64, the labels of the row above
    previous: Tensor  # [B, W] int64, the label to the left of each pixel of the row, -1 at its begin
    final: Tensor  # [B] int32, how many labels of the row are final
    first: Tensor  # [B] int32, the first column that a pass has changed
    arrived: Tensor  # [B] int32, programs that a pass has drawn an image's columns with
    unsettled: Tensor  # [1] int32, images whose row is not final
    passes: Tensor  # [B, H] int32, that each row has taken
