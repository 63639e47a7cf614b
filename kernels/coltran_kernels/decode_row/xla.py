# SPDX-License-Identifier: Apache-2.0
"""The inner decoder's step for one column, and a row as a scan of it: pure functions of tensors, without torch_xla.

    x = inputs[j] + embedding[previous label];  each layer;  norm;  logits;  draw a label  ->  the next column

A scan calls `step(carry, column) -> (carry, found)` once a column and stacks what it found. All shapes are fixed: the
keys and values of all W columns lie in the carry, the columns to come are hidden by minus infinity in the bias, and a
column is written where the counter says. The weights travel in the carry as well, so that the step reads nothing but
its arguments.

Sizes: B images, W columns, D hidden size, h heads of C channels, S labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from coltran_kernels.attention.xla import hide_future, relative_bias
from coltran_kernels.autograd import sum_type
from coltran_kernels.elementwise import affine
from coltran_kernels.layer_norm.xla import add_layer_norm
from coltran_kernels.types import DecodedRow, DecoderLayer, DecoderWeights, RowConditioning, SamplingOptions


class Carry(NamedTuple):
    """What one column leaves to the next, and what they share."""

    label: Tensor  # [B] int64, the previous column's; what it is before the first column does not matter
    caches: tuple[tuple[Tensor, Tensor], ...]  # each layer's keys and values, [B, h, W, C]
    weights: DecoderWeights
    norms: tuple[tuple[Tensor, Tensor, Tensor, Tensor], ...]  # each layer's norm1 scale, shift, norm2 scale, shift


class ColumnLayer(NamedTuple):
    """What conditions one layer at one column; all columns lie along a leading axis until the scan takes them apart."""

    qkv_scale: Tensor | None  # [B, 3D]
    qkv_shift: Tensor | None  # [B, 3D]
    ff_scale: Tensor | None  # [B, D]
    ff_shift: Tensor | None  # [B, D]
    bias: Tensor  # [h, W], minus infinity for the columns to come


class Column(NamedTuple):
    """The terms of one column."""

    number: Tensor  # [] int64
    inputs: Tensor  # [B, D]
    uniform: Tensor  # [B]
    given: Tensor | None  # [B], -1 where the pixel is to be drawn
    guidance: Tensor | None  # [B, S], added to the logits that are drawn from
    layers: tuple[ColumnLayer, ...]


class Found(NamedTuple):
    """What is known of one column after its step."""

    label: Tensor  # [B] int64
    log_prob: Tensor  # [B]
    probabilities: Tensor | None  # [B, S]
    guided_log_prob: Tensor | None  # [B], None where nothing guides


Scan = Callable[[Callable[[Carry, Column], tuple[Carry, Found]], Carry, Column], tuple[Carry, Found]]


def draw(logits: Tensor, uniform: Tensor, options: SamplingOptions) -> Tensor:
    """One label for each vector of logits [..., S]; see `coltran_kernels.draw.reference.draw`.

    The probability that lies before a label in the order of their ranks is summed over all pairs of labels, which fuses
    into one loop; sorting would not.
    """
    if options.mode == "argmax":
        return logits.argmax(-1)
    p = (logits / options.temperature).softmax(-1)
    label = torch.arange(p.shape[-1], device=p.device)
    if options.top_p < 1.0:
        other, own = p[..., None, :], p[..., :, None]
        before = (other > own) | ((other == own) & (label < label[:, None]))
        p = p.masked_fill(torch.where(before, other, 0.0).sum(-1) >= options.top_p, 0.0)
    cumulative = p.cumsum(-1)
    below = (cumulative <= uniform[..., None] * cumulative[..., -1:]).sum(-1)
    last = torch.where(p > 0, label, 0).amax(-1)  # rounding may pass the end
    return torch.minimum(below, last)


def _attend(
    q: Tensor,  # [B, h, C]
    k: Tensor,
    v: Tensor,
    cache: tuple[Tensor, Tensor],
    here: Tensor,  # [W, 1], true at the column of q, k and v
    bias: Tensor,  # [h, W]
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    keys, values = (torch.where(here, new[:, :, None], old) for new, old in zip((k, v), cache, strict=True))
    scores = torch.einsum("bhc,bhkc->bhk", q * q.shape[-1] ** -0.5, keys).to(bias.dtype) + bias
    attended = torch.einsum("bhk,bhkc->bhc", scores.softmax(-1).to(v.dtype), values)
    return attended.flatten(1), (keys, values)


def _finish_layer(
    x: Tensor,  # [B, D], what the layer was given
    attended: Tensor,  # [B, D]
    layer: DecoderLayer,
    column: ColumnLayer,
    norms: Sequence[Tensor],  # norm1 scale, shift, norm2 scale, shift
    eps: float,
) -> Tensor:
    """What follows the attention of one layer."""
    x = add_layer_norm(F.linear(attended, layer.out), x, norms[0], norms[1], eps)
    y = F.linear(F.relu(F.linear(x, layer.ff1, layer.ff1_bias)), layer.ff2, layer.ff2_bias)
    return add_layer_norm(affine(y, column.ff_scale, column.ff_shift), x, norms[2], norms[3], eps)


def _find(x: Tensor, weights: DecoderWeights, column: Column, options: SamplingOptions) -> Found:
    """Draws a label for each vector x [B, D] that has gone through the layers."""
    x = add_layer_norm(x, None, weights.norm_weight, weights.norm_bias, options.eps)
    logits = F.linear(x, weights.logits, weights.logits_bias).to(sum_type(x.dtype))
    guided = logits if column.guidance is None else logits + column.guidance
    label = draw(guided, column.uniform, options)
    if column.given is not None:
        label = torch.where(column.given >= 0, column.given, label)
    chosen = torch.arange(logits.shape[-1], device=x.device) == label[..., None]

    def log_prob(logits: Tensor) -> Tensor:
        return torch.where(chosen, logits.log_softmax(-1), 0.0).sum(-1).to(x.dtype)

    probabilities = logits.softmax(-1).to(x.dtype) if options.return_probabilities else None
    return Found(label, log_prob(logits), probabilities, None if column.guidance is None else log_prob(guided))


def step(carry: Carry, column: Column, *, options: SamplingOptions) -> tuple[Carry, Found]:
    """Decodes and draws one column; `given` and `guidance` are the column's, not those of the options."""
    weights, caches = carry.weights, []
    embedded = F.embedding(carry.label, weights.embedding)
    x = column.inputs + torch.where(column.number > 0, embedded, torch.zeros_like(embedded))
    for layer, conditions, cache, norms in zip(weights.layers, column.layers, carry.caches, carry.norms, strict=True):
        here = (torch.arange(cache[0].shape[2], device=x.device) == column.number)[:, None]
        qkv = affine(F.linear(x, layer.qkv), conditions.qkv_scale, conditions.qkv_shift)
        q, k, v = qkv.unflatten(-1, (3, layer.bias.shape[0], -1)).unbind(1)
        attended, cache = _attend(q, k, v, cache, here, conditions.bias)
        caches.append(cache)
        x = _finish_layer(x, attended, layer, conditions, norms, options.eps)
    found = _find(x, weights, column, options)
    return carry._replace(label=found.label, caches=tuple(caches)), found


def _along_columns(t: Tensor | None) -> Tensor | None:
    """[B, W, ...] -> [W, B, ...]."""
    return None if t is None else t.transpose(0, 1)


def _bias(layer: DecoderLayer) -> Tensor:
    """[W, h, W]: each column's bias of all columns, with those to come hidden."""
    return hide_future(relative_bias(layer.bias).to(sum_type(layer.bias.dtype))).transpose(0, 1)


def begin(
    weights: DecoderWeights, conditioning: RowConditioning, uniforms: Tensor, options: SamplingOptions
) -> tuple[Carry, Column]:
    """What a scan over one row starts from, and what it runs over; arguments of `coltran_kernels.decode_row`."""
    batch, width, hidden = conditioning.inputs.shape
    empty = [conditioning.inputs.new_zeros(batch, h, width, hidden // h) for h in (len(w.bias) for w in weights.layers)]
    layers = tuple(
        ColumnLayer(**{name: _along_columns(getattr(row, name)) for name in ColumnLayer._fields[:4]}, bias=_bias(layer))
        for layer, row in zip(weights.layers, conditioning.layers, strict=True)
    )
    carry = Carry(
        torch.zeros(batch, dtype=torch.int64, device=uniforms.device), tuple((t, t.clone()) for t in empty), weights,
        tuple(row[4:] for row in conditioning.layers),
    )  # fmt: skip
    return carry, Column(
        torch.arange(width, device=uniforms.device), conditioning.inputs.transpose(0, 1), uniforms.transpose(0, 1),
        _along_columns(options.given), _along_columns(options.guidance), layers,
    )  # fmt: skip


def decode_row(
    weights: DecoderWeights, conditioning: RowConditioning, uniforms: Tensor, options: SamplingOptions, *, scan: Scan
) -> DecodedRow:
    """Draws one row with `scan(step, carry, columns) -> (carry, stacked)`; see `coltran_kernels.decode_row`."""
    carry, columns = begin(weights, conditioning, uniforms, options)
    plain = options._replace(given=None, guidance=None)  # those travel in the columns
    _, found = scan(partial(step, options=plain), carry, columns)
    label, log_prob, probabilities, guided = (None if t is None else t.transpose(0, 1) for t in found)
    assert label is not None and log_prob is not None
    return DecodedRow(label, log_prob, probabilities, log_prob if guided is None else guided)
