# SPDX-License-Identifier: Apache-2.0
"""Drawing a row in plain torch: the specification, pixel by pixel and by Jacobi decoding.

Slow and obvious on purpose. Sizes: B images, W pixels a row, D hidden size, h heads of C channels, S labels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from coltran_kernels.attention.reference import axial_attention, condition
from coltran_kernels.draw.reference import draw
from coltran_kernels.layer_norm.reference import add_layer_norm
from coltran_kernels.types import (
    DecodedRow,
    DecoderLayer,
    DecoderWeights,
    Operand,
    RowConditioning,
    RowLayer,
    SamplingOptions,
)


def _decode_layer(
    x: Tensor,  # [B, D], the pixel at column j
    j: int,
    layer: DecoderLayer,
    row: RowLayer,
    keys: Tensor,  # [B, W, h, C], columns < j are filled
    values: Tensor,
    eps: float,
) -> Tensor:
    heads, width = layer.bias.shape[0], layer.bias.shape[1] // 2

    def at(t: Tensor | None) -> Tensor | None:
        return None if t is None else t[:, j]

    qkv = condition(F.linear(x, layer.qkv), at(row.qkv_scale), at(row.qkv_shift))
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).unbind(1)
    keys[:, j], values[:, j] = k, v
    scores = torch.einsum("bhc,bkhc->bhk", q * q.shape[-1] ** -0.5, keys[:, : j + 1])
    scores = scores + layer.bias[:, width - 1 - j : width]
    attended = torch.einsum("bhk,bkhc->bhc", scores.softmax(-1), values[:, : j + 1]).flatten(1)
    x = add_layer_norm(F.linear(attended, layer.out), x, row.norm1_scale, row.norm1_shift, eps)
    y = F.linear(F.relu(F.linear(x, layer.ff1, layer.ff1_bias)), layer.ff2, layer.ff2_bias)
    y = condition(y, at(row.ff_scale), at(row.ff_shift))
    return add_layer_norm(y, x, row.norm2_scale, row.norm2_shift, eps)


def decode_row(
    weights: DecoderWeights,
    conditioning: RowConditioning,
    uniforms: Tensor,
    options: SamplingOptions,
) -> DecodedRow:
    """Draw one row, left to right: embed the previous label, run the layers over the cached keys and values, draw."""
    batch, width, hidden = conditioning.inputs.shape
    caches = []
    for layer in weights.layers:
        heads = layer.bias.shape[0]
        caches.append(conditioning.inputs.new_empty(2, batch, width, heads, hidden // heads))
    labels: list[Tensor] = []
    logits: list[Tensor] = []
    for j in range(width):
        x = conditioning.inputs[:, j]
        if j > 0:
            x = x + F.embedding(labels[-1], weights.embedding)
        for layer, row, (keys, values) in zip(weights.layers, conditioning.layers, caches, strict=True):
            x = _decode_layer(x, j, layer, row, keys, values, options.eps)
        x = add_layer_norm(x, None, weights.norm_weight, weights.norm_bias, options.eps)
        logits.append(F.linear(x, weights.logits, weights.logits_bias))
        guided = logits[-1] if options.guidance is None else logits[-1] + options.guidance[:, j]
        label = draw(guided, uniforms[:, j], options)
        if options.given is not None:
            given = options.given[:, j]
            label = torch.where(given >= 0, given, label)
        labels.append(label)
    return _decoded(torch.stack(logits, 1), torch.stack(labels, 1), options)


def _decoded(logits: Tensor, labels: Tensor, options: SamplingOptions) -> DecodedRow:
    """What is told of drawn labels [B, W], given the plain logits [B, W, S]."""

    def log_prob(logits: Tensor) -> Tensor:
        return logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]

    plain = log_prob(logits)
    guided = plain if options.guidance is None else log_prob(logits + options.guidance).to(plain.dtype)
    return DecodedRow(labels, plain, logits.softmax(-1) if options.return_probabilities else None, guided)


def row_logits(weights: DecoderWeights, conditioning: RowConditioning, labels: Tensor, eps: float) -> Tensor:
    """The logits of every pixel of a row as if `labels` [B, W] were drawn: [B, W, S], the network's ordinary forward.

    A pixel sees the labels before it alone: they are embedded and shifted right by one, and attention is masked.
    """
    x = conditioning.inputs + F.pad(F.embedding(labels, weights.embedding)[:, :-1], (0, 0, 1, 0))
    for layer, row in zip(weights.layers, conditioning.layers, strict=True):
        norms = [norm if norm.dim() == 1 else norm[:, None] for norm in row[4:]]
        qkv = condition(F.linear(x, layer.qkv), row.qkv_scale, row.qkv_shift)
        q, k, v = qkv[:, None].unflatten(-1, (3, layer.bias.shape[0], -1)).unbind(3)
        attended = axial_attention(Operand(q), Operand(k), Operand(v), layer.bias, axis="row", causal=True)[
            :, 0
        ].flatten(-2)
        x = add_layer_norm(F.linear(attended, layer.out), x, norms[0], norms[1], eps)
        y = F.linear(F.relu(F.linear(x, layer.ff1, layer.ff1_bias)), layer.ff2, layer.ff2_bias)
        x = add_layer_norm(condition(y, row.ff_scale, row.ff_shift), x, norms[2], norms[3], eps)
    x = add_layer_norm(x, None, weights.norm_weight, weights.norm_bias, eps)
    return F.linear(x, weights.logits, weights.logits_bias)


def decode_row_jacobi(
    weights: DecoderWeights,
    conditioning: RowConditioning,
    uniforms: Tensor,
    guess: Tensor,  # [B, W] labels that the row may have, such as those of the row above
    options: SamplingOptions,
) -> tuple[DecodedRow, Tensor]:
    """What `decode_row` draws, by Jacobi decoding: all pixels at once, again and again until no label changes.

    A label depends on the labels before it and on its own uniform number. So the row is the one fixed point of drawing
    all of its pixels from a guess of it. Up to the first label that a pass changes, that one included, what it draws is
    what `decode_row` draws, whatever the guess: a pass makes at least one more label final, and W passes are enough
    (Song et al., "Accelerating feedforward computation via parallel nonlinear equation solving", 2021).

    Returns:
        What `decode_row` does, and of each image the passes that its row took, the one included that changed nothing.
    """
    width, given, guidance = guess.shape[1], options.given, options.guidance
    labels = guess if given is None else torch.where(given >= 0, given, guess)
    passes = labels.new_zeros(labels.shape[0])
    final = torch.zeros_like(passes)  # labels of each image that are
    while (final < width).any():
        logits = row_logits(weights, conditioning, labels, options.eps)
        guided = logits if guidance is None else logits + guidance
        drawn = draw(guided.flatten(0, 1), uniforms.flatten(), options).view_as(labels)
        if given is not None:
            drawn = torch.where(given >= 0, given, drawn)
        column = torch.arange(width, device=labels.device)
        kept = torch.where(column < final[:, None], labels, drawn)  # rounding may not move what is final
        changed = torch.where(kept != labels, column, width).amin(1)  # the first column that is
        passes += final < width
        labels, final = kept, (changed + 1).clamp(max=width)
    return _decoded(logits, labels, options), passes
