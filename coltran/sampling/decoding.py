# SPDX-License-Identifier: Apache-2.0
"""The decoders one row at a time, as incremental sampling takes them: KV cache, and what is computed once a row.

Sizes: B images of H x W pixels, D hidden size, h heads of C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from coltran.networks.colorizer import Colorizer, InnerDecoder, OuterDecoder
from coltran.networks.layers import EPS, AxialAttention, FeedForward
from coltran_kernels import (
    DecoderLayer,
    DecoderWeights,
    RowConditioning,
    RowLayer,
    add_layer_norm,
    affine,
    cached_attention,
)


def decoder_weights(colorizer: Colorizer) -> DecoderWeights:
    """The inner decoder, with the embedding and the head round it, as `decode_row` takes it."""
    inner = colorizer.inner_decoder
    layers = tuple(
        DecoderLayer(
            qkv=attention.qkv.weight,
            bias=attention.bias,
            out=attention.out.weight,
            ff1=feed_forward.inner.weight,
            ff1_bias=feed_forward.inner.bias,
            ff2=feed_forward.outer.weight,
            ff2_bias=feed_forward.outer.bias,
        )
        for attention, feed_forward in zip(inner.attention, inner.feed_forward, strict=True)
    )
    return DecoderWeights(
        embedding=colorizer.embedding.weight,
        layers=layers,
        norm_weight=colorizer.norm.weight,
        norm_bias=colorizer.norm.bias,
        logits=colorizer.logits.weight,
        logits_bias=colorizer.logits.bias,
    )


Projected = tuple["list[Tensor | None]", "list[Tensor | None]"]  # [..., parts * D] of each attention, each feed-forward


def project_context(decoder: OuterDecoder | InnerDecoder, context: Tensor, *, implementation: str | None) -> Projected:
    """A context [..., E] through the conditioning projection of every attention and every feed-forward of a decoder."""

    def project(module: AxialAttention | FeedForward) -> Tensor | None:
        return module.project(context, implementation=implementation)

    return [project(module) for module in decoder.attention], [project(module) for module in decoder.feed_forward]


def attention_terms(attention: AxialAttention, projected: Tensor | None, like: Tensor) -> dict[str, Tensor]:
    """`attention.terms` in the precision of `like`."""
    return attention.terms(None if projected is None else projected.to(like.dtype))


def row_conditioning(
    decoder: InnerDecoder,
    position: Tensor,  # [D], of the row
    z: Tensor,  # [B, W, E]
    upper: Tensor,  # [B, W, D]
    projected: Projected,
    norms: list[tuple[Tensor, Tensor]],
) -> RowConditioning:
    """The inner decoder's inputs of one row, but for the labels' embedding, and the scales and shifts of its layers."""
    inputs = (position + decoder.position.column).expand_as(upper)
    if decoder.skip:
        inputs = inputs + z + upper
    of_attention, of_feed_forward = projected
    layers = []
    for i, (attention, feed_forward) in enumerate(zip(decoder.attention, decoder.feed_forward, strict=True)):
        qkv_scale, qkv_shift = _stack_qkv(attention_terms(attention, of_attention[i], upper), upper)
        ff_scale, ff_shift = feed_forward.terms(of_feed_forward[i])
        (scale1, shift1), (scale2, shift2) = norms[2 * i], norms[2 * i + 1]
        affine = (_per_image(t) for t in (scale1, shift1, scale2, shift2))
        layers.append(RowLayer(qkv_scale, qkv_shift, ff_scale, ff_shift, *affine))
    return RowConditioning(inputs, tuple(layers))


# Pixels whose gray context the outer decoder projects at once: rows are handed out one by one, but what conditions them
# is known from the start, and the product of one row of one image is a tenth slower. On a GPU each is a launch more.
TOGETHER, TOGETHER_ON_A_GPU = 256, 8192


class RowConditioner:
    """The inner decoder's conditioning of each row: all that depends on the gray image and the rows above alone."""

    def __init__(self, decoder: InnerDecoder, z: Tensor, *, norm: str) -> None:
        """z [B, H, W, D]; `norm` "exact" averages the whole image in conditional norms, "rowcontext" only the row."""
        self.decoder, self.z = decoder, z
        self.norms = [module.affine(z) for module in decoder.norms] if norm == "exact" else None

    def condition(self, row: int, upper: Tensor, *, implementation: str | None = None) -> RowConditioning:
        """What conditions one row, given the summary of the rows above, [B, W, D]."""
        decoder, z = self.decoder, self.z[:, row]
        norms = self.norms or [module.affine(self.z[:, row : row + 1]) for module in decoder.norms]
        projected = project_context(decoder, torch.cat((z, upper), -1), implementation=implementation)
        return row_conditioning(decoder, decoder.position.row[row], z, upper, projected, norms)


def _stack_qkv(terms: dict[str, Tensor], like: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Scales and shifts of q, k and v side by side, [B, W, 3D]; ones and zeros where only some are conditioned."""

    def stack(kind: str, absent: Callable[[Tensor], Tensor]) -> Tensor | None:
        parts = [terms.get(f"{c}_{kind}") for c in "qkv"]
        if all(part is None for part in parts):
            return None
        return torch.cat([absent(like) if part is None else part.flatten(-2) for part in parts], -1)

    return stack("scale", torch.ones_like), stack("shift", torch.zeros_like)


def _per_image(affine: Tensor) -> Tensor:
    """[B, 1, 1, D] -> [B, D]; [D] stays."""
    return affine.flatten(1) if affine.dim() == 4 else affine


AttendColumn = Callable[[int, AxialAttention, Tensor, "Tensor | None"], Tensor]


def outer_row(
    decoder: OuterDecoder,
    x: Tensor,  # [B, 1, W, D]
    projected: Projected,  # [B, 1, W, ...]
    norms: list[tuple[Tensor, Tensor]],
    attend_column: AttendColumn,  # (which of the column attentions, its module, x, its projected context) -> like x
    implementation: str | None,
) -> Tensor:
    """The layers of the outer decoder on one new row: [B, 1, W, D] -> [B, W, D]."""
    of_attention, of_feed_forward = projected
    for i, (attention, feed_forward) in enumerate(zip(decoder.attention, decoder.feed_forward, strict=True)):
        if attention.axis == "row":
            y = attention.attend(x, of_attention[i], implementation=implementation)
        else:
            y = attend_column(i // 2, attention, x, of_attention[i])
        x = add_layer_norm(y, x, *norms[2 * i], EPS, implementation=implementation)
        y = feed_forward.transform(x, of_feed_forward[i], implementation=implementation)
        x = add_layer_norm(y, x, *norms[2 * i + 1], EPS, implementation=implementation)
    return x[:, 0]


def conditioned_qkv(
    attention: AxialAttention, x: Tensor, projected: Tensor | None, implementation: str | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of x [..., D], conditioned, each [..., h, C]."""
    terms = attention_terms(attention, projected, x)
    q, k, v = (
        affine(t, terms.get(f"{c}_scale"), terms.get(f"{c}_shift"))
        for c, t in zip("qkv", attention.split(x, implementation=implementation), strict=True)
    )
    return q, k, v


class OuterDecoderCache:
    """The outer decoder, one row after another, with a KV cache for its column attention."""

    def __init__(self, decoder: OuterDecoder, z: Tensor) -> None:
        """z: the encoded gray image, [B, H, W, D]."""
        self.decoder, self.z = decoder, z
        self.norms = [module.affine(z) for module in decoder.norms]
        batch, height, width, _ = z.shape
        self.together = max(1, (TOGETHER if z.device.type == "cpu" else TOGETHER_ON_A_GPU) // (batch * width))
        hidden = decoder.position.row.shape[1]
        heads = decoder.attention[0].heads if len(decoder.attention) else 1
        columns = len(decoder.attention) // 2
        # The rows of each head of a column lie together: that is how they are read, again and again.
        self.cache = z.new_empty(columns, 2, batch, width, heads, height, hidden // heads)

    def step(self, row: int, embedded: Tensor, *, implementation: str | None = None) -> Tensor:
        """Embedded colours [B, W, D] of `row` -> the summary [B, W, D] of the rows up to and with it.

        Rows come in order, from 0.
        """
        decoder, z = self.decoder, self.z[:, row : row + 1]
        x = embedded[:, None] + decoder.position.row[row] + decoder.position.column
        if decoder.skip:
            x = x + z
        if row % self.together == 0:
            rows = self.z[:, row : row + self.together]
            self.projected = project_context(decoder, rows, implementation=implementation)
        of_row = slice(row % self.together, row % self.together + 1)
        of_attention, of_feed_forward = ([None if p is None else p[:, of_row] for p in ps] for ps in self.projected)
        attend_column = partial(self._attend_column, row, implementation)
        return outer_row(decoder, x, (of_attention, of_feed_forward), self.norms, attend_column, implementation)

    def reorder_cache(self, origin: Tensor, rows: int) -> None:
        """Each image b takes over the first `rows` rows of image origin[b], which keeps its own."""
        moved = (origin != torch.arange(len(origin), device=origin.device)).nonzero()[:, 0]
        kept = self.cache[..., :rows, :]
        kept[:, :, moved] = kept[:, :, origin[moved]]

    def _attend_column(
        self,
        row: int,
        implementation: str | None,
        layer: int,
        attention: AxialAttention,
        x: Tensor,
        projected: Tensor | None,
    ) -> Tensor:
        """Causal column attention of one row [B, 1, W, D] over the cached rows and itself; caches its own."""
        q, k, v = conditioned_qkv(attention, x, projected, implementation)
        keys, values = self.cache[layer].permute(0, 1, 4, 2, 3, 5)[:, :, : row + 1]
        keys[:, row], values[:, row] = k[:, 0], v[:, 0]
        height = attention.bias.shape[1] // 2
        bias = attention.bias[:, height - 1 - row : height]
        y = cached_attention(q[:, 0], keys, values, bias, implementation=implementation)
        return attention.out(y.flatten(-2), implementation=implementation)[:, None]


class Rows:
    """The rows of B images in turn, in eager mode.

    `coltran.sampling.decoding_graphs.GraphRows` is the same for a graph compiler.
    """

    def __init__(
        self, colorizer: Colorizer, z: Tensor, *, norm: str, finished: Callable[[str], None], implementation: str | None
    ) -> None:
        """z: the encoded gray images, [B, H, W, D]; `norm` and `finished` as in `coltran.sampling.sample`."""
        self.inner, self.outer = (
            RowConditioner(colorizer.inner_decoder, z, norm=norm),
            OuterDecoderCache(colorizer.outer_decoder, z),
        )
        self.embedding = colorizer.embedding.weight
        self.finished, self.implementation = finished, implementation
        self.row = 0
        self._condition(z.new_zeros(z.shape[0], z.shape[2], self.embedding.shape[1]))

    def graph(self, name: str) -> AbstractContextManager[None]:
        """Holds around what a compiler would take as one graph: nothing here."""
        return nullcontext()

    def pick(self, x: Tensor) -> Tensor:
        """The present row of x [B, H, W]: [B, W]."""
        return x[:, self.row]

    def reorder_cache(self, origin: Tensor) -> None:
        """Lets each image b have the rows above of image origin[b], int64 [B], whose own origin is itself."""
        self.outer.reorder_cache(origin, self.row)

    def advance(self, labels: Tensor) -> None:
        """Goes to the next row, given the labels [B, W] of the present one; `conditioning` is then its."""
        embedded = F.embedding(labels, self.embedding)
        upper = self.outer.step(self.row, embedded, implementation=self.implementation)
        self.finished("outer decoder")
        self.row += 1
        self._condition(upper)

    def _condition(self, upper: Tensor) -> None:
        self.conditioning = self.inner.condition(self.row, upper, implementation=self.implementation)
        self.finished("conditioning")
