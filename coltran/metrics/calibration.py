# SPDX-License-Identifier: Apache-2.0
"""Whether a colorizer's probabilities mean what they say: of the labels it gives 30 %, three in ten should come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coltran.files import written_whole

BINS = 15


class Reliability:
    """Expected against actual frequency of labels, for probabilities binned evenly between 0 and 1.

    Every pixel gives as many pairs as there are labels: the probability under teacher forcing, and whether the label
    is the true one. `top_*` keeps to the likeliest label of each pixel, which is what is usually plotted.
    """

    def __init__(self) -> None:
        self.sums = {kind: torch.zeros(3, BINS, dtype=torch.float64) for kind in ("all", "top")}

    def add(self, probabilities: Tensor, labels: Tensor) -> None:
        """Counts a batch: probabilities [..., S] and the true labels [...], integers below S."""
        probabilities, labels = probabilities.flatten(0, -2).double().cpu(), labels.flatten().long().cpu()
        true = torch.zeros_like(probabilities).scatter_(1, labels[:, None], 1.0)
        top, likeliest = probabilities.max(-1)
        for kind, p, hit in (
            ("all", probabilities.flatten(), true.flatten()),
            ("top", top, (likeliest == labels).double()),
        ):
            index = (p * BINS).long().clamp(max=BINS - 1)
            for row, weights in zip(self.sums[kind], (torch.ones_like(p), p, hit), strict=True):
                row += torch.bincount(index, weights, minlength=BINS)

    def result(self) -> dict[str, Any]:
        """For each bin of each kind its count, expected and actual frequency (None where empty), and the mean gap.

        `expected_calibration_error` (Naeini et al., 2015) is the mean over the likeliest labels of the distance
        between both frequencies of their bin.
        """
        found: dict[str, Any] = {}
        for kind, (counts, expected, actual) in self.sums.items():
            filled = counts > 0
            means = [(row / counts).tolist() for row in (expected, actual)]
            for name, values in zip(("expected", "actual"), means, strict=True):
                found[f"{kind}_{name}"] = [
                    round(value, 6) if there else None for value, there in zip(values, filled.tolist(), strict=True)
                ]
            found[f"{kind}_count"] = [int(count) for count in counts]
        counts, expected, actual = self.sums["top"]
        found["expected_calibration_error"] = float((expected - actual).abs().sum() / counts.sum())
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
