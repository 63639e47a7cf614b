# SPDX-License-Identifier: Apache-2.0
"""The rows of B images in turn on an XLA device, in graphs that are compiled for the first row and used for all.

`coltran.sampling.decoding.Rows` is the same in eager mode.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from coltran.networks.colorizer import Colorizer
from coltran.sampling import decoding_graphs as graphs
from coltran_kernels import RowDraws, row_state


class GraphRows:
    """What takes rows through the outer decoder; `conditioning` is the present row's."""

    def __init__(
        self, colorizer: Colorizer, z: Tensor, *, norm: str, finished: Callable[[str], None], implementation: str | None
    ) -> None:
        """As of `coltran.sampling.decoding.Rows`."""
        from coltran_kernels.xla_device import one_graph  # imports torch_xla, so only when wanted

        self.graph = one_graph
        self.colorizer, self.finished, self.implementation = colorizer, finished, implementation
        with self.graph("beginning"):
            self.decoders, self.image, self.rows = start(colorizer, z, norm=norm, implementation=implementation)
        self.conditioning = graphs.conditioning(self.decoders, self.image, self.rows)
        finished("conditioning")

    def pick(self, x: Tensor) -> Tensor:
        """The present row of x [B, H, W]: [B, W]."""
        return x.index_select(1, self.rows.state.rows[1:])[:, 0]

    def reorder_cache(self, origin: Tensor) -> None:
        """Not here: which images are gone on from is known only outside of the graphs."""
        raise NotImplementedError("Histories cannot be exchanged on XLA devices: draw particles on a CPU or a GPU.")

    def advance(self, labels: Tensor) -> None:
        """Goes to the next row, given the labels [B, W] of the present one; `conditioning` is then its."""
        with self.graph("outer decoder"):
            go_on(self.colorizer, self.decoders, self.image, self.rows, labels, implementation=self.implementation)
        self.conditioning = graphs.conditioning(self.decoders, self.image, self.rows)
        self.finished("outer decoder")


def start(
    colorizer: Colorizer, z: Tensor, *, norm: str, implementation: str | None
) -> tuple[graphs.Decoders, graphs.Image, graphs.Rows]:
    """What all rows of the encoded images z [B, H, W, E] need, at the first row."""
    decoders = graphs.prepare(colorizer, z.dtype)
    image = graphs.image_terms(colorizer, decoders, z, norm=norm, at_once=False)
    # What is drawn, `decode_row` is told: of the state the labels alone are used.
    state = row_state(len(z), colorizer.outer_decoder.position.size, 1, z.device, guided=False, probabilities=False)
    draws = RowDraws(state.log_prob, None, None, state.log_prob)
    rows = graphs.empty_rows(colorizer, decoders, state, draws, norm=norm)
    graphs.begin(colorizer, decoders, image, rows, implementation=implementation)
    return decoders, image, rows


def go_on(
    colorizer: Colorizer,
    decoders: graphs.Decoders,
    image: graphs.Image,
    rows: graphs.Rows,
    labels: Tensor,
    *,
    implementation: str | None,
) -> None:
    """Takes a row's colours, [B, W], through the outer decoder; goes to the row below it."""
    rows.state.labels.index_copy_(1, rows.state.rows[1:], labels[:, None])
    graphs.advance(colorizer, decoders, image, rows, implementation=implementation)
