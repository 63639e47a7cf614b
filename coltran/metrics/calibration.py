# SPDX-License-Identifier: Apache-2.0
"""Calibration of a colorizer: of the labels given 30 %, three in ten should be the true one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coltran.files import written_whole

BINS = 15
KINDS = ("all", "top")  # of labels: see `tally`


def tally(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Counts a batch; the sum of several batches' counts is that of all.

    Every pixel gives as many pairs as there are labels: the probability under teacher forcing, and whether the label
    is the true one. The second of `KINDS` keeps to the likeliest label of each pixel, which is what is usually plotted.

    Args:
        probabilities: [..., S].
        labels: the true ones [...], integers below S.

    Returns:
        float64 [2, 3, 15]: of each kind, for probabilities binned evenly between 0 and 1, the number of pairs, the sum
        of their probabilities, and how many of them are true.
    """
    probabilities, labels = probabilities.flatten(0, -2).double().cpu(), labels.flatten().long().cpu()
    true = torch.zeros_like(probabilities).scatter_(1, labels[:, None], 1.0)
    top, likeliest = probabilities.max(-1)
    pairs = ((probabilities.flatten(), true.flatten()), (top, (likeliest == labels).double()))
    rows = []
    for p, hit in pairs:
        index = (p * BINS).long().clamp(max=BINS - 1)
        rows += [torch.bincount(index, weights, minlength=BINS) for weights in (torch.ones_like(p), p, hit)]
    return torch.stack(rows).view(2, 3, BINS)


def reliability(counts: Tensor) -> dict[str, Any]:
    """For each bin of each kind its count, expected and actual frequency (None where empty), and the mean gap.

    `expected_calibration_error` (Naeini et al., 2015) is the mean over the likeliest labels of the distance between
    both frequencies of their bin.

    Args:
        counts: as `tally` returns them.
    """
    found: dict[str, Any] = {}
    for kind, (count, expected, actual) in zip(KINDS, counts, strict=True):
        filled = (count > 0).tolist()
        for name, sums in (("expected", expected), ("actual", actual)):
            means = zip((sums / count).tolist(), filled, strict=True)
            found[f"{kind}_{name}"] = [round(mean, 6) if there else None for mean, there in means]
        found[f"{kind}_count"] = [int(number) for number in count]
    count, expected, actual = counts[KINDS.index("top")]
    found["expected_calibration_error"] = float((expected - actual).abs().sum() / count.sum())
    return found


def plot(result: dict[str, Any], path: Path) -> None:
    """The reliability plot as PNG.

    Raises:
        ImportError: matplotlib, of the extra `plot`, is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), dpi=120)
    axes = figure.add_subplot(xlabel="expected frequency", ylabel="actual frequency", xlim=(0, 1), ylim=(0, 1))
    axes.plot([0, 1], [0, 1], color="0.7", label="calibrated")
    for kind, label in (("all", "all labels"), ("top", "the likeliest label")):
        pairs = zip(result[f"{kind}_expected"], result[f"{kind}_actual"], strict=True)
        points = np.array([pair for pair in pairs if pair[0] is not None])
        axes.plot(*points.T, marker="o", label=label)
    axes.legend()
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png")
