# SPDX-License-Identifier: Apache-2.0
"""Before anything is timed: both ways of sampling draw the same image.

Each pixel inverts a cumulative distribution at one uniform number. Two ways of computing the same network differ by
rounding, and where the number lies within rounding of a boundary they may draw neighbouring labels, after which the two
images have nothing to do with each other. So the slow way is led along the fast one's image, and at each pixel its own
distribution has to put the number into the interval of the label drawn, within rounding, and to agree on the label's
probability. Then the images agree wherever no number lies on a boundary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench import recomputing
from bench.setting import build, random_images
from coltran.errors import UserError
from coltran.networks.colorizer import Colorizer
from coltran.sampling import Sample, sample, uniforms

SEED, SMALL_SIDE = 3, 8
TOLERANCE, LOG_TOLERANCE = 1e-5, 1e-3  # of a cumulative probability, and of a natural log-probability


class Disagreement(UserError):
    """They draw different images."""


def compare(drawn: Sample, forced: Sample, numbers: Tensor) -> dict[str, Any]:
    """Compares a drawn sample with the distributions along it.

    Args:
        drawn: labels and log_prob [B, H, W].
        forced: probabilities [B, rows, W, S] and log_prob [B, H, W] of another way of sampling, given `drawn.labels`.
        numbers: the uniform numbers, [B, H, W].

    Raises:
        Disagreement: a pixel is beyond the tolerances.
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
    if not (outside.max().item() <= TOLERANCE and difference <= LOG_TOLERANCE):
        raise Disagreement(
            f"The two ways of sampling draw different images: uniform numbers lie up to {outside.max().item():.1e} "
            f"outside the interval of the label drawn, log-probabilities differ by up to {difference:.1e}; allowed are "
            f"{TOLERANCE:.0e} and {LOG_TOLERANCE:.0e}. Nothing was timed."
        )
    on_boundary = int((outside > 0).sum())  # drawn alike only within the tolerance
    return {"pixels": index.numel(), "on_boundary": on_boundary, "log_prob_difference": difference}


def check_rows(colorizer: Colorizer, gray: Tensor, *, rows: int, norm: str = "exact") -> dict[str, Any]:
    """Compares the first rows of `coltran.sampling.sample` and of the original's algorithm.

    Raises:
        Disagreement: they are not the same.
    """
    numbers = uniforms(SEED, range(gray.shape[0]), *gray.shape[1:]).to(gray.device)
    drawn = sample(colorizer, gray, norm=norm, seed=SEED)
    forced = recomputing.sample(
        colorizer, gray, norm=norm, seed=SEED, rows=rows, given=drawn.labels, return_probabilities=True
    )
    return compare(drawn, forced, numbers)


def check(colorizer: Colorizer, rows: int) -> dict[str, Any]:
    """Compares small images whole, in both meanings of sampling, and the first rows of one at the network's size.

    Raises:
        Disagreement: they are not the same.
    """
    device, model = colorizer.embedding.weight.device, dict(colorizer.config) | {"resolution": [SMALL_SIDE, SMALL_SIDE]}
    network, gray = build(model, device), random_images(2, model, device)[..., 0]
    assert isinstance(network, Colorizer)
    found = {norm: check_rows(network, gray, rows=SMALL_SIDE, norm=norm) for norm in ("exact", "rowcontext")}
    if rows:
        gray = random_images(1, colorizer.config, device)[..., 0]
        found[f"first {rows} rows"] = check_rows(colorizer, gray, rows=rows)
    return found
