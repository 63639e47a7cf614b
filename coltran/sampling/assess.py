# SPDX-License-Identifier: Apache-2.0
"""What the colorizer thinks of colourings: how surprising each pixel is, how open it was, what else was plausible.

The colours are imposed, and of each pixel the model's distribution given those before it, p_i = p(x_i | x_<i), is kept:

    surprise_i = -log2 p_i(x_i)        bits; its mean is the bits a pixel of the colouring
    mean_i     = mean over colourings of p_i, an estimate of p(x_i) where the colourings are draws from the model
    entropy_i  = -sum mean_i log2 mean_i        bits; 9 where all 512 labels are equally likely, 0 where one is certain

A pixel that several squares of a panorama share counts in the first of them, as it is drawn there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
import torch

from coltran.networks.colorizer import LABELS, Colorizer
from coltran.photo.hints import shades
from coltran.photo.lab import to_ab
from coltran.photo.view import View
from coltran.sampling.sampler import sample

MOST_BITS = 9.0  # the entropy of 512 labels that are equally likely
APART = 12.0  # the least distance between colours that count as two, in CIELAB's a and b
TOGETHER = 8  # colourings that are looked at together, 8 MB each
UNLIKELY = 1e-3  # labels below this probability are not offered


@dataclass(frozen=True)
class Assessment:
    """The model's view of N colourings of one photograph, on the h x w cells of its view."""

    view: View
    surprise: np.ndarray  # float32 [N, h, w], bits
    mean: np.ndarray  # float32 [h, w, 512]

    @property
    def bits_per_pixel(self) -> list[float]:
        """Of each colouring; less is likelier."""
        return self.surprise.mean((1, 2), dtype=np.float64).tolist()

    @property
    def entropy(self) -> np.ndarray:
        """Float32 [h, w], bits."""
        return -(self.mean * np.log2(np.maximum(self.mean, 1e-12))).sum(-1)

    def plausible(self, x: int, y: int, count: int = 6) -> list[tuple[tuple[int, int, int], float]]:
        """`plausible`, of the mean of the colourings."""
        return plausible(self.view, self.mean, x, y, count)


def plausible(view: View, mean: np.ndarray, x: int, y: int, count: int = 6) -> list[tuple[tuple[int, int, int], float]]:
    """Up to `count` distinct colours of a pixel (x, y) of the photograph and their probabilities, likeliest first.

    The colours are as the photograph has them, of the gray that is there, so that a hint of one imposes its label;
    labels too much alike to be told apart (`APART`) count as the likeliest of them.

    Args:
        view: of the photograph.
        mean: float32 [h, w, 512], a distribution of each of its cells.

    Raises:
        ValueError: a pixel outside of the view.
    """
    rows, columns = view.cells(np.array([x]), np.array([y]))
    row, column = int(rows[0]), int(columns[0])
    if not (0 <= row < mean.shape[0] and 0 <= column < mean.shape[1]):
        raise ValueError(f"the pixel {x},{y} lies outside of what is coloured")
    probabilities = mean[row, column]
    labels = np.argsort(-probabilities, kind="stable")
    labels = labels[probabilities[labels] >= UNLIKELY]
    colours = shades(labels, np.full(len(labels), view.gray_low[row, column]))
    ab = to_ab(colours)
    colours = view.levels.squeeze_colors(colours)
    found: dict[int, float] = {}  # place among the labels, probability
    for k, label in enumerate(labels):
        near = [place for place in found if np.linalg.norm(ab[place] - ab[k]) < APART]
        place = min(near, key=lambda place: float(np.linalg.norm(ab[place] - ab[k])), default=k)
        found[place] = found.get(place, 0.0) + float(probabilities[label])
    best = sorted(found, key=lambda place: -found[place])[:count]
    return [((int(r), int(g), int(b)), found[place]) for place in best for r, g, b in [colours[place]]]


def assess(colorizer: Colorizer, view: View, labels: Sequence[np.ndarray], **options: Any) -> Assessment:
    """Looks at N colourings of one photograph.

    Args:
        colorizer: the network.
        view: of the photograph.
        labels: int64 [h, w] each, as in `coltran.pipeline.Colorized`.
        options: of `coltran.sampling.sample`: `norm`, `implementation`.
    """
    height, width = view.gray_low.shape
    side = min(height, width)
    surprise = np.empty((len(labels), height, width), np.float32)
    total = np.zeros((height, width, LABELS), np.float32)
    device = colorizer.embedding.weight.device
    for first in range(0, len(labels), TOGETHER):
        given = torch.from_numpy(np.stack(labels[first : first + TOGETHER]))
        of_batch = np.empty((len(given), height, width, LABELS), np.float32)
        for k in reversed(range(len(view.begins))):  # of squares that share a pixel the first comes last, and stays
            gray = torch.from_numpy(np.ascontiguousarray(view.square(view.gray_low, k, side)))
            found = sample(
                colorizer,
                gray.expand(len(given), side, side).to(device),
                given=view.square(given, k, side).to(device),
                return_probabilities=True,
                seed=0,
                **options,
            )
            assert found.probabilities is not None
            for n in range(len(given)):
                view.square(surprise[first + n], k, side)[:] = -found.log_prob[n].cpu() / log(2)
                view.square(of_batch[n], k, side)[:] = found.probabilities[n].cpu()
        total += of_batch.sum(0)
    return Assessment(view, surprise, total / len(labels))
