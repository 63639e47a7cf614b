# SPDX-License-Identifier: Apache-2.0
"""The two ways to draw a row, pixel by pixel and by fixed point, which give the same labels, and the choice of one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from coltran.networks.layers import choose
from coltran_kernels import DecoderWeights, PreparedDecoder, RowTerms, Settled, decode_row, settle_row

# Pixels of a pass. On the CPU one costs nearly as much beside others as alone, so few are computed in vain.
WINDOW, WINDOW_ON_CPU = 64, 4
TRIED = 3  # rows that each way draws before the faster one is chosen


class RowDrawer:
    """Draws the rows of some images in turn.

    With `method` None it is the faster way that draws: on the CPU, natively and one image at a time, TRIED rows of each
    are timed, in turn, and the one that took the least time for a row goes on. Both draw the same to the bit there, so
    no result depends on a clock. Anywhere else the rows are drawn pixel by pixel, the faster way on the one GPU tried.
    """

    def __init__(
        self,
        weights: DecoderWeights,
        prepared: PreparedDecoder | None,
        *,
        method: str | None,
        influence: Tensor | None = None,
        implementation: str | None,
        **options: Any,
    ) -> None:
        """`method` as of `coltran.sampling.sample`; `influence` of `settle_row`; the others of `decode_row`."""
        ways = {"sequential": self._sequential, "fixed_point": self._fixed_point}
        self.way = None if method is None else choose(ways, method, "method")
        self.influence = influence
        self.weights, self.prepared, self.implementation, self.options = weights, prepared, implementation, options
        self.seconds: dict[Callable[..., Settled], list[float]] = {self._sequential: [], self._fixed_point: []}

    def draw(self, terms: RowTerms, uniforms: Tensor, given: Tensor | None, above: Tensor | None) -> Settled:
        """The next row: what `decode_row` returns, and with it passes and computed pixels.

        Args:
            terms, uniforms, given: of `decode_row`.
            above: the labels of the row above, [B, W]; None for the first row.
        """
        if self.way is not None:
            return self.way(terms, uniforms, given, above)
        tries = uniforms.shape[0] == 1 and self.prepared is not None and uniforms.device.type == "cpu"
        if not tries or above is None:
            return self._sequential(terms, uniforms, given, above)
        way, seconds = min(self.seconds.items(), key=lambda item: len(item[1]))
        start = time.perf_counter()
        found = way(terms, uniforms, given, above)
        seconds.append(time.perf_counter() - start)
        if min(map(len, self.seconds.values())) == TRIED:
            self.way = min(self.seconds, key=lambda way: min(self.seconds[way]))
        return found

    def _sequential(self, terms: RowTerms, uniforms: Tensor, given: Tensor | None, above: Tensor | None) -> Settled:
        found = decode_row(
            self.weights, terms, uniforms, given=given, prepared=self.prepared, implementation=self.implementation,
            **self.options,
        )  # fmt: skip
        batch, width = uniforms.shape
        each = torch.full((batch,), width, dtype=torch.int64)
        return Settled(*found, passes=each, computed=each)

    def _fixed_point(self, terms: RowTerms, uniforms: Tensor, given: Tensor | None, above: Tensor | None) -> Settled:
        guess = torch.zeros_like(uniforms, dtype=torch.int64) if above is None else above
        window = WINDOW_ON_CPU if uniforms.device.type == "cpu" else WINDOW
        return settle_row(
            self.weights, terms, uniforms, guess, window=window, influence=self.influence, given=given,
            prepared=self.prepared, implementation=self.implementation, **self.options,
        )  # fmt: skip
