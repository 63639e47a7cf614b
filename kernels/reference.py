# SPDX-License-Identifier: Apache-2.0
"""The operations in plain torch: the specification that every other implementation is tested against.

Slow and obvious on purpose. Sizes: B images of H x W pixels, h heads of C channels, D = h C, L the attended length.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from coltran_kernels.types import (
    INFLUENCE,
    ROUNDS,
    DecoderLayer,
    DecoderWeights,
    RowLayer,
    RowTerms,
    Settled,
)


def relative_bias(table: Tensor) -> Tensor:
    """Expand a table [h, 2L] to [h, L, L]: entry (q, k) is table[k - q + L - 1]."""
    length = table.shape[1] // 2
    return table.unfold(1, length, 1)[:, :length].flip(1)  # the row of query q is the window that starts at L - 1 - q


def condition(x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    """`x * scale + shift`, either of which may be absent."""
    if scale is not None:
        x = x * scale
    return x if shift is None else x + shift


def axial_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    *,
    axis: str,
    causal: bool,
    q_scale: Tensor | None = None,
    q_shift: Tensor | None = None,
    k_scale: Tensor | None = None,
    k_shift: Tensor | None = None,
    v_scale: Tensor | None = None,
    v_shift: Tensor | None = None,
) -> Tensor:
    """softmax(q k^T / sqrt(C) + bias [+ mask]) v along one axis of [B, H, W, h, C] tensors."""
    q, k, v = condition(q, q_scale, q_shift), condition(k, k_scale, k_shift), condition(v, v_scale, v_shift)
    if axis == "column":
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    length, channels = q.shape[2], q.shape[4]
    scores = torch.einsum("blqhc,blkhc->blhqk", q * channels**-0.5, k)
    if bias is not None:
        scores = scores + relative_bias(bias)
    if causal:
        future = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    out = torch.einsum("blhqk,blkhc->blqhc", scores.softmax(-1), v)
    return out.transpose(1, 2) if axis == "column" else out


def cached_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention of one row's queries [B, W, h, C] over the cached rows [B, T, W, h, C] of its columns."""
    scores = torch.einsum("bwhc,btwhc->bwht", q * q.shape[-1] ** -0.5, k) + bias
    return torch.einsum("bwht,btwhc->bwhc", scores.softmax(-1), v)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """`x W^T + bias`, negative values replaced by zero with `relu`."""
    y = F.linear(x, weight, bias)
    return F.relu(y) if relu else y


def add_layer_norm(
    x: Tensor, residual: Tensor | None, scale: Tensor | None, shift: Tensor | None, eps: float
) -> Tensor:
    """`normalise(x + residual) * scale + shift` over the last axis, with the biased variance."""
    if residual is not None:
        x = x + residual
    mean = x.mean(-1, keepdim=True)
    variance = (x - mean).square().mean(-1, keepdim=True)
    return condition((x - mean) * torch.rsqrt(variance + eps), scale, shift)


def draw(logits: Tensor, uniform: Tensor, *, mode: str, temperature: float, top_p: float) -> Tensor:
    """One label for each row of logits [N, S].

    `argmax` takes the first largest. `sample` inverts the cumulative distribution, in the order of the labels, of
    softmax(logits / temperature) restricted to the smallest set of most probable labels that holds at least `top_p`.
    """
    if mode == "argmax":
        return logits.argmax(-1)
    probabilities = ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1)
    if top_p < 1.0:
        ranked, order = probabilities.sort(dim=-1, descending=True, stable=True)
        beyond = ranked.cumsum(-1) - ranked >= top_p  # enough probability lies before this label
        probabilities = probabilities.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), 0.0)
    cumulative = probabilities.cumsum(-1)
    below = cumulative <= uniform[:, None] * cumulative[:, -1:]
    last = probabilities.shape[-1] - 1 - (probabilities > 0).flip(-1).int().argmax(-1)  # rounding may pass the end
    return torch.minimum(below.sum(-1), last)


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
    terms: RowTerms,
    uniforms: Tensor,
    *,
    given: Tensor | None,
    mode: str,
    temperature: float,
    top_p: float,
    eps: float,
    return_probabilities: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Draw one row, left to right: embed the previous label, run the layers over the cached keys and values, draw."""
    batch, width, hidden = terms.inputs.shape
    caches = []
    for layer in weights.layers:
        heads = layer.bias.shape[0]
        caches.append(terms.inputs.new_empty(2, batch, width, heads, hidden // heads))
    labels: list[Tensor] = []
    log_probs: list[Tensor] = []
    probabilities: list[Tensor] = []
    for j in range(width):
        x = terms.inputs[:, j]
        if j > 0:
            x = x + F.embedding(labels[-1], weights.embedding)
        for layer, row, (keys, values) in zip(weights.layers, terms.layers, caches, strict=True):
            x = _decode_layer(x, j, layer, row, keys, values, eps)
        x = add_layer_norm(x, None, weights.norm_weight, weights.norm_bias, eps)
        logits = F.linear(x, weights.logits, weights.logits_bias)
        label = draw(logits, uniforms[:, j], mode=mode, temperature=temperature, top_p=top_p)
        if given is not None:
            label = torch.where(given[:, j] >= 0, given[:, j], label)
        labels.append(label)
        log_probs.append(logits.log_softmax(-1).gather(1, label[:, None])[:, 0])
        if return_probabilities:
            probabilities.append(logits.softmax(-1))
    kept = torch.stack(probabilities, 1) if return_probabilities else None
    return torch.stack(labels, 1), torch.stack(log_probs, 1), kept


def _pass_layer(
    x: Tensor,  # [N, D], the pixels at columns first .. first + N - 1 of one image
    first: int,
    layer: DecoderLayer,
    row: RowLayer,  # of this image: [W, ...], norms [D]
    keys: Tensor,  # [W, h, C], columns < first are filled
    values: Tensor,
    eps: float,
) -> Tensor:
    heads, width, last = layer.bias.shape[0], layer.bias.shape[1] // 2, first + x.shape[0]

    def at(t: Tensor | None) -> Tensor | None:
        return None if t is None else t[first:last]

    qkv = condition(F.linear(x, layer.qkv), at(row.qkv_scale), at(row.qkv_shift))
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).unbind(1)
    keys[first:last], values[first:last] = k, v
    scores = torch.einsum("qhc,khc->hqk", q * q.shape[-1] ** -0.5, keys[:last])
    scores = scores + relative_bias(layer.bias)[:, first:last, :last]
    future = torch.ones(width, width, dtype=torch.bool, device=x.device).triu(1)
    scores = scores.masked_fill(future[first:last, :last], float("-inf"))
    attended = torch.einsum("hqk,khc->qhc", scores.softmax(-1), values[:last]).flatten(1)
    x = add_layer_norm(F.linear(attended, layer.out), x, row.norm1_scale, row.norm1_shift, eps)
    y = F.linear(F.relu(F.linear(x, layer.ff1, layer.ff1_bias)), layer.ff2, layer.ff2_bias)
    y = condition(y, at(row.ff_scale), at(row.ff_shift))
    return add_layer_norm(y, x, row.norm2_scale, row.norm2_shift, eps)


def _of_image(row: RowLayer, image: int) -> RowLayer:
    """One image's terms, [W, ...], and norms, [D]."""
    return RowLayer._make(t if t is None or t.dim() == 1 else t[image] for t in row)


def expect(
    logits: Tensor,  # [N, S] of N pixels side by side, whose labels were taken to be `taken` [N]
    drawn: Tensor,  # [N], from these logits
    taken: Tensor,
    uniform: Tensor,
    given: Tensor | None,
    influence: Tensor,
    **options: Any,
) -> Tensor:
    """Labels [N] to go on with: `drawn`, but drawn again with the influence of labels to the left that have changed.

    `influence` [S, S] is what a label to the left, the first axis, adds to the logits; options of `draw`.
    """
    expected = drawn
    for _ in range(ROUNDS):
        moved = logits.clone()
        again = torch.zeros_like(drawn, dtype=torch.bool)
        for distance, share in enumerate(INFLUENCE, 1):
            new, old = expected[:-distance], taken[:-distance]
            moved[distance:] += share * (influence[new] - influence[old])
            again[distance:] |= new != old
        if given is not None:
            again &= given < 0
        expected = torch.where(again, draw(moved, uniform, **options), drawn)
    return expected


def settle_row(
    weights: DecoderWeights,
    terms: RowTerms,
    uniforms: Tensor,
    guess: Tensor,
    *,
    window: int,
    influence: Tensor | None,
    given: Tensor | None,
    mode: str,
    temperature: float,
    top_p: float,
    eps: float,
    return_probabilities: bool,
) -> Settled:
    """Draw one row as `decode_row` does, many pixels at once, by drawing them all again until none changes.

    `labels` holds what the row is taken to be. Before and after each pass its first `settled` labels are those of
    `decode_row`, and so are the keys and values of columns < settled. A pass draws the next `window` pixels as if
    `labels` were right. Up to the first label that it changes, that one included, every label before a pixel was right
    already, so what was drawn is what `decode_row` draws. A pass settles at least one pixel, so W passes are enough.

    Any guess will do for the pixels behind that label. With `influence` it is what they are expected to be, now that
    labels to their left have changed.
    """
    batch, width, hidden = terms.inputs.shape
    labels = guess.clone() if given is None else torch.where(given >= 0, given, guess)
    logits = terms.inputs.new_empty(batch, width, weights.logits.shape[0])
    passes, computed = labels.new_zeros(batch), labels.new_zeros(batch)
    for b in range(batch):
        rows = [_of_image(row, b) for row in terms.layers]
        caches = [
            terms.inputs.new_empty(2, width, layer.bias.shape[0], hidden // layer.bias.shape[0])
            for layer in weights.layers
        ]
        settled = 0
        while settled < width:
            here = slice(settled, min(settled + window, width))
            before = F.pad(F.embedding(labels[b], weights.embedding)[:-1], (0, 0, 1, 0))  # nothing before the first
            x = terms.inputs[b, here] + before[here]
            for layer, row, (keys, values) in zip(weights.layers, rows, caches, strict=True):
                x = _pass_layer(x, settled, layer, row, keys, values, eps)
            x = add_layer_norm(x, None, weights.norm_weight, weights.norm_bias, eps)
            logits[b, here] = F.linear(x, weights.logits, weights.logits_bias)
            options: dict[str, Any] = {"mode": mode, "temperature": temperature, "top_p": top_p}
            drawn, taken = draw(logits[b, here], uniforms[b, here], **options), labels[b, here].clone()
            imposed = None if given is None else given[b, here]
            if imposed is not None:
                drawn = torch.where(imposed >= 0, imposed, drawn)
            changed = (drawn != taken).nonzero()
            labels[b, here] = drawn
            if influence is not None:
                labels[b, here] = expect(
                    logits[b, here], drawn, taken, uniforms[b, here], imposed, influence, **options
                )
            passes[b] += 1
            computed[b] += here.stop - here.start
            settled = settled + int(changed[0]) + 1 if len(changed) else here.stop
    log_probs = logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
    return Settled(labels, log_probs, logits.softmax(-1) if return_probabilities else None, passes, computed)
