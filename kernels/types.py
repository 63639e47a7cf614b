# SPDX-License-Identifier: Apache-2.0
"""What `decode_row` takes: the inner decoder's weights, and the terms of one row that do not depend on its colours.

Sizes: B images, W pixels a row, D hidden size, F feed-forward size, h heads of C = D / h channels, S labels.
Matrices are stored as torch.nn.Linear stores them, [out, in].
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


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


class RowTerms(NamedTuple):
    """Everything about one row that depends on the gray image and the rows above alone."""

    inputs: Tensor  # [B, W, D], position embedding plus, with skip connections, the context
    layers: tuple[RowLayer, ...]


# How `settle_row` uses its `influence`: such a share of it for the labels one and two pixels to the left, and so many
# times, since what is expected of a pixel changes what is expected of those right of it. Both were found by measuring.
INFLUENCE = (0.4, 0.15)
ROUNDS = 2


class Settled(NamedTuple):
    """A row that was drawn by fixed point, and what that took."""

    labels: Tensor  # [B, W] int64
    log_probs: Tensor  # [B, W], natural, under the untempered model
    probabilities: Tensor | None  # [B, W, S]
    passes: Tensor  # [B] int64, until the row was settled
    computed: Tensor  # [B] int64, pixels in all passes; W where the guess was right everywhere
