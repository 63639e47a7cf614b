# SPDX-License-Identifier: Apache-2.0
"""How far a hint reaches: over what is like it in gray and joined to it, and how that pulls on what is drawn there.

The distance D of a cell from a hint is the least, over paths of neighbouring cells, of the sum of

    1 / FAR + |gray difference| / STEP

and the hint's strength there is exp(-D^2). To the colorizer's logits of each label is added

    -strength * min(|ab(label) - ab(hint)|^2 / (2 WIDE^2), MOST)

as guidance is (`coltran.sampling.guidance`), so that hints steer what comes before them in the order of drawing too.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from coltran.image import labels_to_colors
from coltran.networks.colorizer import LABELS
from coltran.photo.lab import to_ab

FAR = 20.0  # cells of one gray
STEP = 64.0  # gray levels
END = 1.5  # the distance at which a hint's strength, 0.1, no longer counts
WIDE = 8.0  # of the pull, in CIELAB's a and b
MOST = 16.0  # nats


def reach(hinted: np.ndarray, gray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The strength of the nearest hint on each cell, and its label.

    Args:
        hinted: int64 [h, w], labels that hints impose, -1 elsewhere.
        gray: uint8 [h, w].

    Returns:
        float32 [h, w] in 0 .. 1, 1 where there is a hint and 0 beyond its reach; and int64 [h, w], -1 there.
    """
    distance, label = np.where(hinted >= 0, 0.0, np.inf), hinted.copy()
    level = gray.astype(np.float64)
    edges = [
        (here, there, 1 / FAR + np.abs(level[here] - level[there]) / STEP)
        for a, b in (((slice(1, None),), (slice(-1),)), ((slice(None), slice(1, None)), (slice(None), slice(-1))))
        for here, there in ((a, b), (b, a))
    ]
    before = None
    while before is None or (distance != before).any():
        before = distance.copy()
        for here, there, cost in edges:
            found = distance[there] + cost
            nearer = (found < distance[here]) & (found < END)
            distance[here][nearer], label[here][nearer] = found[nearer], label[there][nearer]
    return np.exp(-(distance**2)).astype(np.float32), label


def hint_term(hinted: np.ndarray, gray: np.ndarray) -> Tensor:
    """What is added to the colorizer's logits, float32 [h, w, 512]; arguments as of `reach`."""
    strength, label = reach(hinted, gray)
    ab = to_ab(labels_to_colors(np.arange(LABELS)) + np.uint8(16))
    pulls = np.minimum(((ab[:, None] - ab) ** 2).sum(-1) / (2 * WIDE**2), MOST).astype(np.float32)
    return torch.from_numpy(-strength[..., None] * pulls[label])
