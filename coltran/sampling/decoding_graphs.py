# SPDX-License-Identifier: Apache-2.0
"""The rows of an image for a graph compiler (XLA): every row is the same graph, its number a tensor.

What `decoding.py` slices with a Python number is picked here with a tensor of one number, and caches have their full
size from the start, the rows to come masked by minus infinity. So one graph serves every row of every image.

Sizes: B images of H x W pixels, D hidden size, h heads of C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from coltran.networks.colorizer import Colorizer, InnerDecoder
from coltran.networks.layers import AxialAttention
from coltran.sampling.decoding import conditioned_qkv, outer_row, project_context, row_terms
from coltran_kernels import RowTerms, cached_attention

Affine = tuple[Tensor, Tensor]


class Image(NamedTuple):
    """What stays the same for all rows of B images."""

    z: Tensor  # [B, H, W, D], the encoded gray image
    outer_norms: list[Affine]
    inner_norms: list[Affine] | None  # None where each row has its own


class State(NamedTuple):
    """What one row leaves to the next, changed in place."""

    row: Tensor  # [1] int64, the row whose colours are drawn next
    caches: list[Tensor]  # for each column attention, the keys and values of all rows: [2, B, H, W, h, C]


def begin(colorizer: Colorizer, z: Tensor, *, norm: str, implementation: str | None) -> tuple[Image, State, RowTerms]:
    """What all rows need, and what conditions the first; `norm` as in `coltran.sampling.sample`."""
    outer, inner = colorizer.outer_decoder, colorizer.inner_decoder
    batch, height, width, _ = z.shape
    image = Image(
        z,
        [module.affine(z) for module in outer.norms],
        [module.affine(z) for module in inner.norms] if norm == "exact" else None,
    )
    columns = [attention for attention in outer.attention if attention.axis == "column"]
    hidden = outer.position.row.shape[1]
    caches = [z.new_zeros(2, batch, height, width, a.heads, hidden // a.heads) for a in columns]
    state = State(torch.zeros(1, dtype=torch.int64, device=z.device), caches)
    return image, state, _terms(inner, image, state.row, z.new_zeros(batch, width, hidden), implementation)


def advance(
    colorizer: Colorizer, image: Image, state: State, labels: Tensor, *, implementation: str | None
) -> RowTerms:
    """Takes a row's colours, [B, W], through the outer decoder; gives what conditions the row below it."""
    decoder, row = colorizer.outer_decoder, state.row
    z = image.z.index_select(1, row)
    x = F.embedding(labels, colorizer.embedding.weight)[:, None]
    x = x + decoder.position.row.index_select(0, row) + decoder.position.column
    if decoder.skip:
        x = x + z
    attend_column = partial(_attend_column, state, implementation)
    projected = project_context(decoder, z, implementation=implementation)
    upper = outer_row(decoder, x, projected, image.outer_norms, attend_column, implementation)
    row += 1
    return _terms(colorizer.inner_decoder, image, row, upper, implementation)


def _terms(decoder: InnerDecoder, image: Image, row: Tensor, upper: Tensor, implementation: str | None) -> RowTerms:
    """What conditions one row, given the summary of the rows above, [B, W, D]."""
    z = image.z.index_select(1, row)
    norms = image.inner_norms or [module.affine(z) for module in decoder.norms]
    projected = project_context(decoder, torch.cat((z[:, 0], upper), -1), implementation=implementation)
    return row_terms(decoder, decoder.position.row.index_select(0, row)[0], z[:, 0], upper, projected, norms)


def _attend_column(
    state: State,
    implementation: str | None,
    layer: int,
    attention: AxialAttention,
    x: Tensor,  # [B, 1, W, D]
    projected: Tensor | None,
) -> Tensor:
    """Causal column attention of one row over the whole cache, rows to come masked; caches its keys and values."""
    row, cache = state.row, state.caches[layer]
    q, k, v = conditioned_qkv(attention, x, projected, implementation)
    cache.index_copy_(2, row, torch.stack((k, v)))
    height = attention.bias.shape[1] // 2
    other = torch.arange(height, device=x.device)
    bias = attention.bias.index_select(1, other - row + height - 1)
    bias = bias.masked_fill(other > row, float("-inf"))
    keys, values = cache.unbind()
    y = cached_attention(q[:, 0], keys, values, bias, implementation=implementation)
    return attention.out(y.flatten(-2), implementation=implementation)[:, None]


class GraphRows:
    """The rows of B images in turn, in graphs that are compiled for the first row and used for all.

    `coltran.sampling.decoding.Rows` is the same in eager mode.
    """

    def __init__(
        self, colorizer: Colorizer, z: Tensor, *, norm: str, finished: Callable[[str], None], implementation: str | None
    ) -> None:
        """As of `coltran.sampling.decoding.Rows`."""
        from coltran_kernels.xla.device import one_graph  # imports torch_xla, so only when wanted

        self.graph = one_graph
        self.colorizer, self.finished, self.implementation = colorizer, finished, implementation
        with self.graph("beginning"):
            self.image, self.state, self.terms = begin(colorizer, z, norm=norm, implementation=implementation)
        finished("conditioning")

    def pick(self, x: Tensor) -> Tensor:
        """The present row of x [B, H, W]: [B, W]."""
        return x.index_select(1, self.state.row)[:, 0]

    def go_on_from(self, origin: Tensor) -> None:
        """Not here: which images are gone on from is known only outside of the graphs."""
        raise NotImplementedError("Histories cannot be exchanged on XLA devices: draw particles on a CPU or a GPU.")

    def advance(self, labels: Tensor) -> None:
        """Goes to the next row, given the labels [B, W] of the present one; `terms` is then what conditions it."""
        with self.graph("outer decoder"):
            self.terms = advance(self.colorizer, self.image, self.state, labels, implementation=self.implementation)
        self.finished("outer decoder")
