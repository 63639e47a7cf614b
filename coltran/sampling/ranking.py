# SPDX-License-Identifier: Apache-2.0
"""Colourings of a photograph, and the order in which a person sees them: one rule for the programs and the page.

`guide` goes by the distance of the drawn coarse colours from those that the guide expects; the likeliest colourings are
not the best ones (docs/notes/log.md). `likelihood` goes by the probability of the distribution that was drawn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from coltran.image import labels_to_colors
from coltran.networks.guide import Guide
from coltran.photo.lab import to_ab

ORDERS = ("guide", "likelihood")
HALF = 16  # from a label's darkest colour to its middle


@dataclass(frozen=True)
class Colorized:
    """Colourings of one photograph."""

    images: list[np.ndarray]  # uint8 [H, W, 3] each; uint16 at the own size of a photograph of 16 bits
    gray: np.ndarray  # uint8 [H, W], what was coloured, at their size
    log_prob: list[float]  # of each image's coarse colours under the colorizer: mean log2 a pixel, so -bits a pixel;
    # of expected colours under the guide
    labels: list[np.ndarray]  # those coarse colours: int64 [h, w] each, for `kept`
    guided_log_prob: list[float]  # the same with guidance: of the distribution that they were drawn from
    guidance: float  # its weight; 0 where there was none
    samples: list[int]  # which of the samples that were drawn each one is
    badness: list[float]  # what they are ordered by, the least first (`coltran.sampling.ranking`)
    effective: float | None = None  # with particles: the least effective sample size after any row

    def ranking(self) -> list[int]:
        """The colourings in the order in which a person wants to see them."""
        return ranking(self.badness)

    def choose(self, order: Sequence[int]) -> Colorized:
        """The colourings of these indices, in that order."""
        return replace(
            self,
            images=[self.images[s] for s in order],
            log_prob=[self.log_prob[s] for s in order],
            guided_log_prob=[self.guided_log_prob[s] for s in order],
            labels=[self.labels[s] for s in order],
            samples=[self.samples[s] for s in order],
            badness=[self.badness[s] for s in order],
        )


def check_order(order: str | None, guide: Guide | None, weight: float) -> str:
    """The order that is meant: None is "guide" where a guide steers the drawing, and "likelihood" elsewhere.

    Raises:
        ValueError: none of `ORDERS`, or "guide" without one.
    """
    if order is None:
        return "guide" if guide is not None and weight else "likelihood"
    if order not in ORDERS:
        raise ValueError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")
    if order == "guide" and guide is None:
        raise ValueError("the order by a guide needs one, and these networks have none")
    return order


def badness(labels: Tensor, guided_log_prob: Tensor, expected: np.ndarray | None) -> list[float]:
    """What colourings are ordered by, the least first.

    Args:
        labels: int64 [N, h, w], their coarse colours.
        guided_log_prob: [N], of the distribution that they were drawn from.
        expected: uint8 [h, w, 3], the colours that a guide expects; None orders by likelihood.

    Returns:
        the mean distance from the expected colours in CIELAB's a and b; or minus the log-probability.
    """
    if expected is None:
        return (-guided_log_prob).tolist()
    distance = np.linalg.norm(to_ab(labels_to_colors(labels.numpy()) + np.uint8(HALF)) - to_ab(expected), axis=-1)
    return distance.mean((1, 2), dtype=np.float64).tolist()


def ranking(badness: Sequence[float]) -> list[int]:
    """The indices of colourings, the best first; of equal ones the first."""
    return sorted(range(len(badness)), key=lambda s: badness[s])
