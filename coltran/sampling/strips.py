# SPDX-License-Identifier: Apache-2.0
"""The coarse colours of whole photographs: square after square of their strips, many colourings at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coltran.networks.colorizer import Colorizer
from coltran.photo.view import View
from coltran.sampling.particles import RESAMPLING, choose_systematic, sample_particles
from coltran.sampling.sampler import sample, uniforms

Preview = Callable[[int, int, np.ndarray], None]  # (photograph, sample, labels so far [h, w], -1 where there are none)

Progress = Callable[[int, int], None]  # (rows done, rows)


@dataclass
class Strip:
    """The colourings of one photograph while they are drawn."""

    number: int  # of the photograph
    seed: int
    view: View
    given: Tensor  # int64 [h, w], what is imposed, -1 elsewhere
    labels: Tensor  # int64 [N, h, w], -1 where there are none yet
    log_prob: Tensor  # [N], the sum over the pixels drawn so far, natural
    effective: float | None = None  # with particles: the least effective sample size after any row

    @classmethod
    def begin(cls, number: int, seed: int, view: View, given: np.ndarray, count: int) -> Strip:
        """`count` colourings of which nothing is drawn yet."""
        labels = torch.full((count, *given.shape), -1, dtype=torch.int64)
        return cls(number, seed, view, torch.from_numpy(given), labels, torch.zeros(count))

    @property
    def side(self) -> int:
        """Cells a side of a square."""
        return self.view.gray_low.shape[1 - self.view.axis]

    def of_square(self, k: int, strip: Any) -> Any:
        """The k-th square of an array or a tensor [..., h, w]."""
        return self.view.square(strip, k, self.side)

    def imposed(self, k: int) -> Tensor:
        """What is imposed on the k-th square of each colouring, by the squares before it too: [N, side, side]."""
        labels = self.of_square(k, self.labels)
        return torch.where(labels >= 0, labels, self.of_square(k, self.given))

    def keep(self, k: int, s: int | slice, labels: Tensor, log_prob: Tensor) -> None:
        """Takes up the k-th square of some colourings, [..., side, side] each."""
        square = self.of_square(k, self.labels)[s]
        self.log_prob[s] += (log_prob * (square < 0)).sum((-2, -1))
        square[:] = labels

    def go_on_from(self, origin: np.ndarray) -> None:
        """Makes those colourings, [n], the ones that there are."""
        self.labels, self.log_prob = self.labels[origin], self.log_prob[origin]

    def so_far(self, k: int, s: int, rows: Tensor) -> np.ndarray:
        """The labels of a colouring with the rows [r, side] that are drawn of its k-th square: int64 [h, w]."""
        strip = self.labels[s].clone()
        self.of_square(k, strip)[: len(rows)] = rows
        return strip.numpy()


def draw_strips(
    colorizer: Colorizer,
    strips: Sequence[Strip],
    *,
    batch_size: int,
    progress: Progress,
    preview: Preview | None = None,
    **options: Any,
) -> None:
    """Draws every colouring of every strip.

    Args:
        colorizer: the network.
        strips: of which nothing is drawn yet; changed in place.
        batch_size: colourings that are drawn together.
        progress: called with (rows done, rows) of all colourings.
        preview: called after each row with (number of the photograph, colouring, labels so far [h, w]).
        options: of `coltran.sampling.sample`.
    """
    rounds = max((len(strip.view.begins) for strip in strips), default=0)
    tasks = [
        [(strip, s) for strip in strips if k < len(strip.view.begins) for s in range(len(strip.labels))]
        for k in range(rounds)  # a square needs the one before it
    ]
    done, total = 0, sum(map(len, tasks))
    for k, of_round in enumerate(tasks):
        for batch in batched(of_round, batch_size):

            def report(row: int, rows: int, done: int = done, count: int = len(batch)) -> None:
                progress(done * rows + row * count, total * rows)

            def show(labels: Tensor, _: Tensor, k: int = k, batch: Sequence[tuple[Strip, int]] = batch) -> None:
                assert preview is not None
                for (strip, s), rows in zip(batch, labels.cpu(), strict=True):
                    preview(strip.number, s, strip.so_far(k, s, rows))

            given = torch.stack([strip.imposed(k)[s] for strip, s in batch])
            gray = np.stack([strip.of_square(k, strip.view.gray_low) for strip, _ in batch])
            drawn = sample(
                colorizer,
                _like(colorizer, torch.from_numpy(gray)),
                seed=[strip.seed for strip, _ in batch],
                image_index=[k * 2**32 + s for _, s in batch],  # every square has random numbers of its own
                given=_like(colorizer, given) if (given >= 0).any() else None,
                progress=report,
                after_row=None if preview is None else show,
                **options,
            )
            for (strip, s), labels, log_prob in zip(batch, drawn.labels.cpu(), drawn.log_prob.cpu(), strict=True):
                strip.keep(k, s, labels, log_prob)
            done += len(batch)


def draw_particles(
    colorizer: Colorizer,
    strip: Strip,
    *,
    samples: int,
    progress: Progress,
    preview: Preview | None = None,
    **options: Any,
) -> None:
    """Draws the colourings of a strip as particles, which agree with what is imposed; then chooses `samples` of them.

    Args:
        preview: as of `draw_strips`, of the heaviest particle, as colouring 0.
        colorizer, strip, progress, options: as of `draw_strips`.
    """
    weights, squares = None, len(strip.view.begins)
    for k in range(squares):
        before = strip.of_square(k, strip.labels[0])

        def report(row: int, rows: int, k: int = k) -> None:
            progress(k * rows + row, squares * rows)

        def show(labels: Tensor, weights: np.ndarray, origin: np.ndarray, k: int = k) -> None:
            assert preview is not None
            heaviest = int(weights.argmax())
            preview(strip.number, 0, strip.so_far(k, int(origin[heaviest]), labels[heaviest].cpu()))

        found = sample_particles(
            colorizer,
            _like(colorizer, torch.from_numpy(np.ascontiguousarray(strip.of_square(k, strip.view.gray_low)))),
            _like(colorizer, strip.imposed(k)),
            (before < 0) & (strip.of_square(k, strip.given) >= 0),
            seed=strip.seed,
            square=k,
            weights=weights,
            progress=report,
            after_row=None if preview is None else show,
            **options,
        )
        strip.go_on_from(found.origin)
        strip.keep(k, slice(None), found.sample.labels.cpu(), found.sample.log_prob.cpu())
        strip.effective = min(found.effective, strip.effective or found.effective)
        weights = found.weights
    assert weights is not None
    first, *numbers = uniforms(strip.seed, [2 * RESAMPLING - 1], 1, len(weights) + 1).flatten().tolist()
    strip.go_on_from(choose_systematic(weights, len(weights), first)[np.argsort(numbers)[:samples]])


def batched(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """The items in order, `size` at a time."""
    return (items[first : first + size] for first in range(0, len(items), size))


def _like(colorizer: Colorizer, tensor: Tensor) -> Tensor:
    """The tensor where the network is."""
    return tensor.to(colorizer.embedding.weight.device)
