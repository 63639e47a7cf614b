# SPDX-License-Identifier: Apache-2.0
"""Colourings that agree with imposed colours everywhere, also above them: sequential Monte Carlo over the rows.

An imposed colour moves only the pixels that are drawn after it. The distribution that is wanted is the model's own
given all imposed colours g at the pixels G:

    p(x | x_G = g)  ~  prod_{i not in G} p(x_i | x_<i)  prod_{i in G} p(g_i | x_<i)

K particles are drawn from the first product, as `sample` draws them, and after each row particle k is weighted by the
second: w_k <- w_k prod_{i in G, in this row} p(g_i | x^k_<i). Where the effective sample size 1 / sum_k w_k^2 falls
below K / 2, K new ones are chosen in proportion to the weights and go on with equal weights: likely histories are gone
on from several times, the others end (Doucet, Johansen, "A tutorial on particle filtering and smoothing", 2009). As K
grows, weighted particles become draws from p(x | x_G = g); the product over the rows of the weights' sums estimates
p(g) without bias at any K. A temperature or top-p changes how free pixels are drawn, not the weights.
With guidance p is the guided model throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coltran.networks.colorizer import Colorizer
from coltran.sampling.sampler import Sample, sample, uniforms

RESAMPLING = 2**63  # where the streams of random numbers for choosing particles begin; images have those below


@dataclass(frozen=True)
class Particles:
    """K weighted colourings of one gray image."""

    sample: Sample
    weights: np.ndarray  # float64 [K], their sum 1
    origin: np.ndarray  # int64 [K], which of the particles that came in each goes on from
    effective: float  # the least effective sample size after any row, 1 .. K
    log_evidence: float  # estimate of the natural log of p(g)


def effective_size(weights: np.ndarray) -> float:
    """1 / sum w^2 of weights [K] whose sum is 1: how many equal draws they are worth, 1 .. K."""
    return float(1 / np.square(weights).sum())


def choose_systematic(weights: np.ndarray, count: int, uniform: float) -> np.ndarray:
    """`count` indices in proportion to weights [K] whose sum is 1, ascending: int64 [count].

    Systematic: the points (k + uniform) / count are looked up in the cumulative weights, so index i is chosen
    floor(count w_i) or ceil(count w_i) times, count w_i in the mean.
    """
    ends = weights.cumsum()
    points = (np.arange(count) + uniform) / count * ends[-1]
    return np.minimum(np.searchsorted(ends, points, side="right"), len(weights) - 1)


def in_place(chosen: np.ndarray) -> np.ndarray:
    """The same K of K indices in an order in which every index that occurs stands once at its own place."""
    counts = np.bincount(chosen, minlength=len(chosen))
    origin = np.arange(len(chosen))
    origin[counts == 0] = np.repeat(origin, np.maximum(counts - 1, 0))
    return origin


def sample_particles(
    colorizer: Colorizer,
    gray: Tensor,
    given: Tensor,
    weighed: Tensor,
    *,
    seed: int,
    square: int = 0,
    weights: np.ndarray | None = None,
    guidance: Tensor | None = None,
    after_row: Callable[[Tensor, np.ndarray, np.ndarray], None] | None = None,
    **options: Any,
) -> Particles:
    """K colourings of one gray image, weighted by how well they agree with what is imposed.

    Args:
        colorizer: the network.
        gray: integers [H, W] in 0..255.
        given: labels [K, H, W] that are imposed on each particle, -1 where a pixel is to be drawn.
        weighed: bool [H, W], the pixels G among them.
        seed: 0 .. 2**64 - 1.
        square: which streams of the seed are used: particle k draws as the image `square * 2**32 + k` does.
        weights: float64 [K], of the particles that come in; default equal ones.
        guidance: what is added to the logits of each pixel, float32 [H, W, 512]: then p is the guided distribution.
        after_row: called after each row with the labels so far [K, rows done, W], the weights [K], and which of the
            particles that came in each goes on from [K].
        options: of `coltran.sampling.sample`.

    Raises:
        ValueError, NotImplementedError: as of `coltran.sampling.sample`.
    """
    count, height, _ = given.shape
    state = np.full(count, 1 / count) if weights is None else weights
    origin = np.arange(count)
    least, log_evidence = effective_size(state), 0.0
    numbers = uniforms(seed, [RESAMPLING + square], height, 1)[0, :, 0].tolist()
    weighed = weighed.cpu()

    def weigh(labels: Tensor, log_prob: Tensor) -> Tensor | None:
        nonlocal state, origin, least, log_evidence
        row = labels.shape[1] - 1
        moved = None
        if weighed[row].any():
            with np.errstate(divide="ignore"):  # a weight may have become 0
                log_weights = np.log(state) + log_prob[:, row].cpu().double()[:, weighed[row]].sum(1).numpy()
            highest = log_weights.max()
            state = np.exp(log_weights - highest)
            log_evidence += float(highest + np.log(state.sum()))
            state = state / state.sum()
            least = min(least, effective_size(state))
            if effective_size(state) < count / 2:
                found = in_place(choose_systematic(state, count, numbers[row]))
                state, origin = np.full(count, 1 / count), origin[found]
                moved = torch.from_numpy(found).to(labels.device)
        if after_row is not None:
            after_row(labels if moved is None else labels[moved], state, origin)
        return moved

    drawn = sample(
        colorizer,
        gray.expand(count, *gray.shape),
        given=given,
        guidance=None if guidance is None else guidance.expand(count, *guidance.shape),
        seed=seed,
        image_index=[square * 2**32 + k for k in range(count)],
        after_row=weigh,
        **options,
    )
    return Particles(drawn, state, origin, least, log_evidence)
