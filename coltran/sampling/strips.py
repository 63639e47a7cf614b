# SPDX-License-Identifier: Apache-2.0
"""The coarse colours of whole photographs: square after square of their strips, many colourings at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import log
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coltran.networks.colorizer import Colorizer
from coltran.networks.guide import Guide
from coltran.photo.view import View
from coltran.sampling import ranking
from coltran.sampling.guidance import guidance_term, guide_grays, log_probabilities, mean_colors
from coltran.sampling.particles import RESAMPLING, choose_systematic, sample_particles
from coltran.sampling.reach import hint_term
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
    guided_log_prob: Tensor  # [N], the same with guidance
    guidance: list[Tensor] = field(default_factory=list)  # of each square, float32 [side, side, 512]; empty: none
    expected: np.ndarray | None = None  # uint8 [h, w, 3], the guide's mean, where the colourings are ordered by it
    effective: float | None = None  # with particles: the least effective sample size after any row

    @classmethod
    def begin(cls, number: int, seed: int, view: View, given: np.ndarray, count: int) -> Strip:
        """`count` colourings of which nothing is drawn yet."""
        labels = torch.full((count, *given.shape), -1, dtype=torch.int64)
        return cls(number, seed, view, torch.from_numpy(given), labels, torch.zeros(count), torch.zeros(count))

    def steer(self, guide: Guide | None, weight: float, order: str, hinted: np.ndarray | None = None) -> None:
        """Says what steers the drawing and orders what is drawn.

        Args:
            guide: steers unless the weight is 0, and orders where that is the `order`.
            hinted: int64 [h, w], labels of hints that reach beyond their cells, -1 elsewhere.
        """
        squares = range(len(self.view.begins))
        grays = guide_grays(guide, self.view) if guide and (weight or order == "guide") else []
        log_p = log_probabilities(guide, grays) if guide else []
        if weight:
            assert guide is not None
            self.guidance = [
                guidance_term(guide, gray, one[None], weight)[0] for gray, one in zip(grays, log_p, strict=True)
            ]
        if hinted is not None:
            pull = hint_term(hinted, self.view.gray_low).movedim(-1, 0)
            pulls = [self.of_square(k, pull).movedim(0, -1) for k in squares]
            device = guide.table.device if guide else pull.device
            pulls = [one.to(device) for one in pulls]
            self.guidance = [a + b for a, b in zip(self.guidance, pulls, strict=True)] if self.guidance else pulls
            log_p = [a + b for a, b in zip(log_p, pulls, strict=True)] if log_p else []
        if order == "guide":
            self.expected = mean_colors(log_p, self.view)

    def badness(self) -> list[float]:
        """What the colourings are ordered by, the least first."""
        return ranking.badness(self.labels, self.guided_log_prob, self.expected)

    def bits(self, order: Sequence[int]) -> tuple[list[float], list[float]]:
        """Mean log2 a pixel of some colourings, without and with guidance."""
        scale = log(2) * self.given.numel()
        return [float(self.log_prob[s]) / scale for s in order], [float(self.guided_log_prob[s]) / scale for s in order]

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

    def keep(self, k: int, s: int | slice, labels: Tensor, log_prob: Tensor, guided_log_prob: Tensor) -> None:
        """Takes up the k-th square of some colourings, [..., side, side] each."""
        square = self.of_square(k, self.labels)[s]
        self.log_prob[s] += (log_prob * (square < 0)).sum((-2, -1))
        self.guided_log_prob[s] += (guided_log_prob * (square < 0)).sum((-2, -1))
        square[:] = labels

    def reorder(self, origin: np.ndarray) -> None:
        """Makes those colourings, [n], the ones that there are."""
        self.labels, self.log_prob = self.labels[origin], self.log_prob[origin]
        self.guided_log_prob = self.guided_log_prob[origin]

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
            guidance = [strip.guidance[k] for strip, _ in batch if strip.guidance]
            drawn = sample(
                colorizer,
                _like(colorizer, torch.from_numpy(gray)),
                seed=[strip.seed for strip, _ in batch],
                image_index=[k * 2**32 + s for _, s in batch],  # every square has random numbers of its own
                given=_like(colorizer, given) if (given >= 0).any() else None,
                guidance=_like(colorizer, torch.stack(guidance)) if guidance else None,
                progress=report,
                after_row=None if preview is None else show,
                **options,
            )
            kept = (drawn.labels.cpu(), drawn.log_prob.cpu(), drawn.guided_log_prob.cpu())
            for (strip, s), *of_one in zip(batch, *kept, strict=True):
                strip.keep(k, s, *of_one)
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
            guidance=_like(colorizer, strip.guidance[k]) if strip.guidance else None,
            progress=report,
            after_row=None if preview is None else show,
            **options,
        )
        strip.reorder(found.origin)
        drawn = found.sample
        strip.keep(k, slice(None), drawn.labels.cpu(), drawn.log_prob.cpu(), drawn.guided_log_prob.cpu())
        strip.effective = min(found.effective, strip.effective or found.effective)
        weights = found.weights
    assert weights is not None
    first, *numbers = uniforms(strip.seed, [2 * RESAMPLING - 1], 1, len(weights) + 1).flatten().tolist()
    strip.reorder(choose_systematic(weights, len(weights), first)[np.argsort(numbers)[:samples]])


def batched(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """The items in order, `size` at a time."""
    return (items[first : first + size] for first in range(0, len(items), size))


def _like(colorizer: Colorizer, tensor: Tensor) -> Tensor:
    """The tensor where the network is."""
    return tensor.to(colorizer.embedding.weight.device)
