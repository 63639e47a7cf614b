# SPDX-License-Identifier: Apache-2.0
"""Before anything is timed: both ways of sampling draw the same image.

Each pixel inverts a cumulative distribution at one uniform number. Two ways of computing the same network differ by
rounding, and where the number lies within rounding of a boundary they may draw neighbouring labels, after which the two
images have nothing to do with each other. So the slow way is led along the fast one's image, and at each pixel its own
distribution has to put the number into the interval of the label drawn, within rounding, and to agree on the label's
probability. Then the images agree wherever no number lies on a boundary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench import recomputing
from bench.setting import build, draw, random_images, small
from coltran.errors import UserError
from coltran.networks.colorizer import Colorizer
from coltran.sampling import Sample, uniforms

SEED = 3
# By dtype: largest difference of a cumulative probability, and of a natural log-probability.
TOLERANCES = {torch.float32: (1e-5, 1e-3), torch.bfloat16: (5e-2, 5e-1)}


class Agreement(NamedTuple):
    """How well two ways of sampling agree."""

    pixels: int  # compared
    on_boundary: int  # of those, drawn alike only within the tolerance
    log_prob_difference: float  # the largest


class Disagreement(UserError):
    """They draw different images."""


def compare(drawn: Sample, forced: Sample, numbers: Tensor, tolerances: tuple[float, float]) -> Agreement:
    """Compares a drawn sample with the distributions along it.

    Args:
        drawn: labels and log_prob [B, H, W].
        forced: probabilities [B, rows, W, S] and log_prob [B, H, W] of another way of sampling, given `drawn.labels`.
        numbers: the uniform numbers, [B, H, W].
        tolerances: largest difference of a cumulative probability, and of a natural log-probability.

    Raises:
        Disagreement: a pixel is beyond them.
    """
    assert forced.probabilities is not None
    rows = forced.probabilities.shape[1]
    probabilities = forced.probabilities.double()
    cumulative = probabilities.cumsum(-1)
    cumulative = cumulative / cumulative[..., -1:]
    index = drawn.labels[:, :rows, :, None]
    end = cumulative.gather(-1, index)[..., 0]
    start = torch.where(index[..., 0] > 0, cumulative.gather(-1, (index - 1).clamp(min=0))[..., 0], 0.0)
    number = numbers[:, :rows].to(end)
    outside = torch.maximum(start - number, number - end).clamp(min=0)
    difference = (drawn.log_prob[:, :rows] - forced.log_prob[:, :rows]).abs().max().item()
    if not (outside.max().item() <= tolerances[0] and difference <= tolerances[1]):
        raise Disagreement(
            f"The two ways of sampling draw different images: uniform numbers lie up to {outside.max().item():.1e} "
            f"outside the interval of the label drawn, log-probabilities differ by up to {difference:.1e}; allowed are "
            f"{tolerances[0]:.0e} and {tolerances[1]:.0e}. Nothing was timed."
        )
    return Agreement(index.numel(), int((outside > 0).sum()), difference)


def check_rows(
    colorizer: Colorizer, gray: Tensor, implementation: str, *, rows: int, norm: str, dtype: torch.dtype
) -> Agreement:
    """Compares the first rows of `coltran.sampling.sample` and of the original's algorithm.

    Raises:
        Disagreement: they are not the same.
    """
    numbers = uniforms(SEED, range(gray.shape[0]), *gray.shape[1:]).to(gray.device)
    drawn = draw(implementation, colorizer, gray, norm=norm, seed=SEED)
    forced = recomputing.sample(
        colorizer, gray, norm=norm, seed=SEED, rows=rows, given=drawn.labels, return_probabilities=True
    )
    return compare(drawn, forced, numbers, TOLERANCES[dtype])


def check_whole(model: Mapping[str, Any], implementation: str, device: torch.device, dtype: torch.dtype) -> Agreement:
    """Compares whole images, small ones, in both meanings of sampling; gives the worse agreement.

    Raises:
        Disagreement: they are not the same.
    """
    network = build(small(model), device, dtype)
    assert isinstance(network, Colorizer)
    gray = random_images(2, small(model), device)[..., 0]
    found = [
        check_rows(network, gray, implementation, rows=gray.shape[1], norm=norm, dtype=dtype)
        for norm in ("exact", "rowcontext")
    ]
    return Agreement(
        sum(a.pixels for a in found), sum(a.on_boundary for a in found), max(a.log_prob_difference for a in found)
    )
