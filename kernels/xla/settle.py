# SPDX-License-Identifier: Apache-2.0
"""A row by fixed point as a loop of passes over all of it: pure functions of tensors, without torch_xla.

    x = inputs + embedding[labels before];  each layer, masked;  norm;  logits;  draw every label  ->  the next pass

All shapes are fixed. So a pass computes the whole row of every image, needs no keys and values of earlier passes, and
the loop goes on until all images are settled, after W passes at most; see `coltran_kernels.reference.settle_row` for
why that is the row which `step` draws column by column. What the passes share travels in the carry, so that a pass
reads nothing but its argument.

Sizes: B images, W columns, D hidden size, h heads of C channels, S labels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from coltran_kernels.elementwise import affine
from coltran_kernels.types import DecoderWeights, RowTerms, Settled
from coltran_kernels.xla.operations import axial_attention
from coltran_kernels.xla.step import Found, find, finish_layer


class Carry(NamedTuple):
    """What one pass leaves to the next, and what they share."""

    unsettled: Tensor  # [] bool, whether any image is: what the loop looks at
    found: Found  # [B, W], what the row is taken to be
    settled: Tensor  # [B] int64, columns that are final
    passes: Tensor  # [B] int64, until the image was settled
    weights: DecoderWeights
    terms: RowTerms
    uniforms: Tensor  # [B, W]
    given: Tensor  # [B, W], -1 where the pixel is to be drawn


Loop = Callable[[Callable[[Carry], Carry], Carry], Carry]


def take_pass(carry: Carry, *, eps: float, **options: Any) -> Carry:
    """Draws all columns as if the row were right; options of `coltran_kernels.xla.step.find`."""
    weights, labels = carry.weights, carry.found.label
    width = labels.shape[1]
    x = carry.terms.inputs + F.pad(F.embedding(labels, weights.embedding)[:, :-1], (0, 0, 1, 0))
    for layer, row in zip(weights.layers, carry.terms.layers, strict=True):
        qkv = affine(F.linear(x, layer.qkv), row.qkv_scale, row.qkv_shift)
        q, k, v = qkv[:, None].unflatten(-1, (3, layer.bias.shape[0], -1)).unbind(3)
        attended = axial_attention(q, k, v, layer.bias, axis="row", causal=True)[:, 0].flatten(-2)
        norms = [norm if norm.dim() == 1 else norm[:, None] for norm in row[4:]]
        x = finish_layer(x, attended, layer, row.ff_scale, row.ff_shift, norms, eps)
    column = torch.arange(width, device=labels.device)
    imposed = torch.where(column < carry.settled[:, None], labels, carry.given)
    found = find(x, weights, carry.uniforms, imposed, eps=eps, **options)
    changed = torch.where(found.label != labels, column, width).amin(1)  # the first column that is
    settled = (changed + 1).clamp(max=width)
    passes = carry.passes + (carry.settled < width)
    return carry._replace(unsettled=(settled < width).any(), found=found, settled=settled, passes=passes)


def settle_row(
    weights: DecoderWeights,
    terms: RowTerms,
    uniforms: Tensor,
    guess: Tensor,
    *,
    loop: Loop,
    given: Tensor | None,
    return_probabilities: bool,
    **options: Any,
) -> Settled:
    """Draws one row with `loop(take_pass, carry) -> carry`; see `coltran_kernels.settle_row`."""
    batch, width, _ = terms.inputs.shape
    labels = guess if given is None else torch.where(given >= 0, given, guess)
    probabilities = terms.inputs.new_zeros(batch, width, weights.logits.shape[0]) if return_probabilities else None
    carry = Carry(
        unsettled=torch.ones((), dtype=torch.bool, device=guess.device),
        found=Found(labels, terms.inputs.new_zeros(batch, width), probabilities),
        settled=guess.new_zeros(batch),
        passes=guess.new_zeros(batch),
        weights=weights,
        terms=terms,
        uniforms=uniforms,
        given=torch.full_like(guess, -1) if given is None else given,
    )
    carry = loop(partial(take_pass, keep=return_probabilities, **options), carry)
    computed = (carry.passes.amax() * width).expand(batch)  # by all images until the last one is settled
    return Settled(*carry.found, passes=carry.passes, computed=computed)
