# SPDX-License-Identifier: Apache-2.0
"""The rows of an image as functions of tensors: every row is the same work, its number a tensor.

    begin     what depends on the gray image alone, for all rows at once; what conditions the first row
    advance   a row's colours through the outer decoder, over caches of full size; what conditions the next row

Nothing they take or give is a Python number and all their results lie where they lay before, so that one CUDA graph, or
one graph of a compiler (XLA), serves every row of every image. `decoding.py` slices with Python numbers instead.

Sizes: B images of H x W pixels, D hidden size, E channels of the gray context, h heads of C channels, P projected ones.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from coltran.networks.colorizer import Colorizer, InnerDecoder, OuterDecoder
from coltran.networks.layers import ACTIVATIONS, EPS, AxialAttention, FeedForward
from coltran.sampling.decoding import decoder_weights
from coltran_kernels import (
    DecoderLayer,
    DecoderWeights,
    Epilogue,
    Pending,
    RowConditioning,
    RowDraws,
    RowLayer,
    RowState,
    add_layer_norm,
    append_attention,
    begin_row,
    fused_linear,
    residual_layer,
    row_attention,
    unpack_conditioning,
)
from coltran_kernels.linear.reference import normed
from coltran_kernels.types import Affine

Places = tuple["slice | None", "slice | None", "slice | None", "slice | None"]  # of RowLayer's first four among P


class Projection(NamedTuple):
    """The conditioning projections of all layers of a decoder side by side."""

    weight: Tensor  # [P, E]
    bias: Tensor  # [P]; one where a scale is not conditioned
    places: tuple[Places, ...]  # of each layer
    activations: tuple[tuple[slice, Callable[[Tensor], Tensor]], ...]


class Decoders(NamedTuple):
    """A colorizer's decoders as a row takes them: made once."""

    outer: tuple[tuple[str, DecoderLayer], ...]  # axis and weights of each layer
    inner: DecoderWeights
    outer_projection: Projection  # of the gray context
    inner_projection: Projection  # of the gray context
    inner_upper: Tensor  # [P, D], the rest of it, of what the rows above say
    dtype: torch.dtype  # of matrices and activations


class Image(NamedTuple):
    """What depends on the gray images alone: at a row what the outer decoder takes, and the inner one at the next."""

    inputs: Tensor  # [2, B, H, W, D], of the outer decoder and the inner: but for labels, and for the rows above
    projected: bool  # whether for all rows at once
    context: (
        Tensor  # [B, H, W, P of the outer decoder + P of the inner], the inner one's but for the rows above; if not
    )
    # projected, z [B, H, W, E]
    outer_norms: list[Affine]  # [D] or [B, D]
    inner_norms: list[Affine]  # [D] or [B, D]; without any, each row has its own
    row_norms: Tensor | None  # [B, H, norms, 2, D]


class Rows(NamedTuple):
    """What one row leaves to the next, changed in place."""

    state: RowState
    draws: RowDraws
    caches: list[Tensor]  # of each column attention, the keys and values of all rows: [2, B, W, h, H, C]
    inputs: Tensor  # [B, W, D], of the present row
    terms: Tensor  # [B, W, P]
    norms: Tensor | None  # [B, norms, 2, D]


def _layer(attention: AxialAttention, feed_forward: FeedForward) -> DecoderLayer:
    return DecoderLayer(
        attention.qkv.weight, attention.bias, attention.out.weight, feed_forward.inner.weight,
        feed_forward.inner.bias, feed_forward.outer.weight, feed_forward.outer.bias,
    )  # fmt: skip


def _shortened(layer: DecoderLayer, dtype: torch.dtype) -> DecoderLayer:
    return layer._replace(
        **{name: getattr(layer, name).detach().to(dtype).contiguous() for name in ("qkv", "out", "ff1", "ff2")}
    )


def _projection(decoder: OuterDecoder | InnerDecoder, context: int) -> Projection:
    """All projections of a context by a decoder; its scales of queries, keys and values lie side by side, and so on."""
    weights, biases, places = list[Tensor](), list[Tensor](), list[Places]()
    activations = list[tuple[slice, Callable[[Tensor], Tensor]]]()
    like = decoder.position.row
    hidden, end = like.shape[1], 0

    def take(weight: Tensor, bias: Tensor, act: Callable[[Tensor], Tensor] | None) -> slice:
        nonlocal end
        weights.append(weight)
        biases.append(bias)
        end += len(weight)
        place = slice(end - len(weight), end)
        if act not in (None, ACTIVATIONS["identity"]):
            activations.append((place, act))
        return place

    for attention, feed_forward in zip(decoder.attention, decoder.feed_forward, strict=True):
        found = dict[str, slice | None]()
        if attention.condition is not None:
            weight = attention.condition.weight
            named = unpack_conditioning(weight.T, attention.heads, attention.conditioned, attention.cond_scale)
            for kind in ("_scale", "_shift") if attention.cond_scale else ("_shift",):
                begin = end
                for x in "qkv":
                    constant = torch.full_like(like[0], float(kind == "_scale" and x + kind not in named))
                    if x + kind in named:
                        take(named[x + kind].flatten(1).T, constant, attention.act if attention.cond_scale else None)
                    else:
                        take(weight.new_zeros(hidden, weight.shape[1]), constant, None)
                found[kind] = slice(begin, end)
        scale = shift = None
        if feed_forward.condition is not None:
            of_parts = zip(
                feed_forward.condition.weight.split(hidden), feed_forward.condition.bias.split(hidden), strict=True
            )
            act = feed_forward.act if feed_forward.parts == 2 else None
            shift, *rest = (take(weight, bias, act) for weight, bias in of_parts)
            scale = rest[0] if rest else None
        places.append((found.get("_scale"), found.get("_shift"), scale, shift))
    weight = torch.cat(weights) if weights else like.new_zeros(0, context)
    return Projection(weight, torch.cat(biases) if biases else like.new_zeros(0), tuple(places), tuple(activations))


@torch.no_grad()
def prepare(colorizer: Colorizer, dtype: torch.dtype) -> Decoders:
    """The decoders with their matrices, and so their activations, of a type."""
    outer, inner = colorizer.outer_decoder, colorizer.inner_decoder
    layers = [
        (attention.axis, _shortened(_layer(attention, feed_forward), dtype))
        for attention, feed_forward in zip(outer.attention, outer.feed_forward, strict=True)
    ]
    weights = decoder_weights(colorizer)
    weights = weights._replace(
        layers=tuple(_shortened(layer, dtype) for layer in weights.layers), logits=weights.logits.detach().to(dtype)
    )
    encoded, hidden = len(colorizer.gray_encoder.bias), inner.position.row.shape[1]
    of_outer, of_inner = _projection(outer, encoded), _projection(inner, encoded + hidden)
    of_gray, of_upper = of_inner.weight[:, :encoded], of_inner.weight[:, encoded:]
    return Decoders(
        tuple(layers), weights, of_outer._replace(weight=of_outer.weight.to(dtype)),
        of_inner._replace(weight=of_gray.to(dtype)), of_upper.to(dtype).contiguous(), dtype,
    )  # fmt: skip


def _terms(decoders: Decoders, z: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
    """What the outer decoder takes of z, [..., E] -> [..., P]; the inner one of the row below, before activations."""
    of_outer, of_inner = (
        F.linear(x, projection.weight, projection.bias.to(x.dtype))
        for x, projection in ((z, decoders.outer_projection), (below, decoders.inner_projection))
    )
    _act(decoders.outer_projection, of_outer)
    return of_outer, of_inner


def _act(projection: Projection, terms: Tensor) -> None:
    for place, act in projection.activations:
        terms[..., place] = act(terms[..., place])


def _inputs(decoder: OuterDecoder | InnerDecoder, z: Tensor) -> Tensor:
    position = (decoder.position.row[:, None] + decoder.position.column).to(z.dtype)
    return position + z if decoder.skip else position.expand(len(z), *position.shape).contiguous()


def _affines(decoder: OuterDecoder | InnerDecoder, z: Tensor) -> list[Affine]:
    """Scale and shift of each norm, [D] or [B, D], of z [B, H, W, E]."""
    found = (module.affine(z) for module in decoder.norms)
    return [(scale.flatten(1), shift.flatten(1)) if scale.dim() == 4 else (scale, shift) for scale, shift in found]


def image_terms(colorizer: Colorizer, decoders: Decoders, z: Tensor, *, norm: str, at_once: bool = True) -> Image:
    """What depends on the encoded gray images alone.

    Args:
        colorizer, decoders: the network, and what `prepare` has made of it.
        z: [B, H, W, E].
        norm: as in `coltran.sampling.sample`.
        at_once: project all rows now, which takes some 50 times the memory of z, and not each at its turn.
    """
    outer, inner = colorizer.outer_decoder, colorizer.inner_decoder
    exact, short = z.to(outer.position.row.dtype), z.to(decoders.dtype)
    context = torch.cat(_terms(decoders, short, short.roll(-1, 1)), -1) if at_once else short
    row_norms = None
    if norm != "exact" and len(inner.norms):
        of_rows = _affines(inner, exact.flatten(0, 1)[:, None])  # each row as an image
        stacked = [torch.stack([t.expand(z.shape[0] * z.shape[1], -1) for t in affine], 1) for affine in of_rows]
        row_norms = torch.stack(stacked, 1).unflatten(0, z.shape[:2])
    inputs = torch.stack((_inputs(outer, short), _inputs(inner, short).roll(-1, 1)))  # the first row's come last
    return Image(
        inputs, at_once, context,
        _affines(outer, exact), _affines(inner, exact) if norm == "exact" else [], row_norms,
    )  # fmt: skip


def empty_rows(colorizer: Colorizer, decoders: Decoders, state: RowState, draws: RowDraws, *, norm: str) -> Rows:
    """Where the rows of the images of a state leave what they leave."""
    (batch, height, width), inner = state.labels.shape, colorizer.inner_decoder

    def empty(*shape: int, dtype: torch.dtype = decoders.dtype) -> Tensor:
        return torch.zeros(*shape, dtype=dtype, device=state.labels.device)

    heads = [len(layer.bias) for axis, layer in decoders.outer if axis == "column"]
    hidden = inner.position.row.shape[1]
    caches = [empty(2, batch, width, h, height, hidden // h) for h in heads]
    own = norm != "exact" and len(inner.norms) > 0
    norms = empty(batch, len(inner.norms), 2, hidden, dtype=inner.position.row.dtype) if own else None
    projected = len(decoders.inner_projection.weight)
    return Rows(state, draws, caches, empty(batch, width, hidden), empty(batch, width, projected), norms)


def begin(colorizer: Colorizer, decoders: Decoders, image: Image, rows: Rows, *, implementation: str | None) -> None:
    """Goes to the first row."""
    rows.state.rows.copy_(torch.arange(-2, 0, device=rows.state.rows.device))
    rows.state.passes.zero_()
    begin_row(rows.state, rows.draws, implementation=implementation)
    _, inputs, _, terms = _pick(decoders, image, torch.full_like(rows.state.rows[:1], image.inputs.shape[2] - 1))
    upper = Pending(torch.zeros_like(rows.inputs))
    _condition(colorizer.inner_decoder, decoders, image, rows, inputs, terms, upper, implementation)


def _pick(decoders: Decoders, image: Image, row: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The outer and the inner decoder's inputs, then their terms, [B, W, ...], that lie at a row, [1]."""
    outer, inner = image.inputs.index_select(2, row)[:, :, 0]
    if not image.projected:
        rows = image.context.index_select(1, torch.cat((row, (row + 1) % image.context.shape[1])))
        return outer, inner, *_terms(decoders, rows[:, 0], rows[:, 1])
    terms, of_outer = image.context.index_select(1, row)[:, 0], len(decoders.outer_projection.weight)
    return outer, inner, terms[..., :of_outer], terms[..., of_outer:]


def advance(colorizer: Colorizer, decoders: Decoders, image: Image, rows: Rows, *, implementation: str | None) -> None:
    """Takes the colours of the present row through the outer decoder, and goes to the row below it."""
    begin_row(rows.state, rows.draws, implementation=implementation)
    row = rows.state.rows[:1]  # the one that is left
    inputs, inner_inputs, terms, inner_terms = _pick(decoders, image, row)
    pending = Pending(inputs, (decoders.inner.embedding, rows.state.above))
    options: dict[str, Any] = {"implementation": implementation}
    for i, (axis, layer) in enumerate(decoders.outer):
        if axis == "row":
            attend = partial(row_attention, bias=layer.bias, causal=False, **options)
        else:
            attend = partial(append_attention, cache=rows.caches[i // 2], bias=layer.bias, row=row, **options)
        norms = image.outer_norms[2 * i : 2 * i + 2]
        of_layer = _row_layer(decoders.outer_projection.places[i], terms, norms)
        pending = residual_layer(pending, layer, of_layer, attend, eps=EPS, **options)
    inner = colorizer.inner_decoder
    _condition(inner, decoders, image, rows, inner_inputs, inner_terms, pending, implementation)


def _row_layer(places: Places, terms: Tensor, norms: list[Affine]) -> RowLayer:
    scale, shift, ff_scale, ff_shift = (None if place is None else terms[..., place] for place in places)
    return RowLayer(scale, shift, ff_scale, ff_shift, *norms[0], *norms[1])


def _condition(
    inner: InnerDecoder,
    decoders: Decoders,
    image: Image,
    rows: Rows,
    inputs: Tensor,
    terms: Tensor,
    pending: Pending,
    implementation: str | None,
) -> None:
    """What conditions the present row, given the summary of the rows above, [B, W, D], of which norms are pending."""
    if rows.terms.shape[-1]:
        _, upper = fused_linear(
            pending, decoders.inner_upper, Epilogue(shift=terms), out=rows.terms, eps=EPS,
            implementation=implementation,
        )  # fmt: skip
        _act(decoders.inner_projection, rows.terms)
    else:
        norm = partial(add_layer_norm, implementation=implementation)
        upper = normed(pending, EPS, norm)
    if inner.skip:
        torch.add(inputs, upper, out=rows.inputs)
    else:
        rows.inputs.copy_(inputs)
    if rows.norms is not None and image.row_norms is not None:
        rows.norms.copy_(image.row_norms.index_select(1, rows.state.rows[1:])[:, 0])


def conditioning(decoders: Decoders, image: Image, rows: Rows) -> RowConditioning:
    """What conditions the present row, as `decode_row` takes it: views of where `begin` and `advance` put it."""
    norms = image.inner_norms
    if rows.norms is not None:
        norms = [(affine[:, 0], affine[:, 1]) for affine in rows.norms.unbind(1)]
    layers = (
        _row_layer(places, rows.terms, norms[2 * i : 2 * i + 2])
        for i, places in enumerate(decoders.inner_projection.places)
    )
    return RowConditioning(rows.inputs, tuple(layers))


def reorder(rows: Rows, origin: Tensor) -> None:
    """Lets each image b have the rows so far of image origin[b], int64 [B], with what is imposed on it."""
    state = rows.state
    of_images = {
        id(t): t for t in (state.labels, state.log_prob, state.guided_log_prob, state.probabilities) if t is not None
    }
    for tensor in (*of_images.values(), *([] if rows.draws.given is None else [rows.draws.given])):
        tensor.copy_(tensor[origin])
    for cache in rows.caches:
        cache.copy_(cache[:, origin])
