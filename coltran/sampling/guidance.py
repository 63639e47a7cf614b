# SPDX-License-Identifier: Apache-2.0
"""A guide at work: what it adds to the colorizer's logits, and the colours that it expects by itself.

    logits + w clamp(log p(label | photograph) - log q(label | gray level), -6, 6)

What the photograph says of a pixel beyond its gray level is to an autoregressive colorizer what classifier guidance
is to a diffusion model (Dhariwal and Nichol, 2021, section 4). w = 0 is the trained distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from coltran.image import area_resize, colors_to_labels, to_bits
from coltran.networks.guide import SCALE, Guide, expected_colors, shrink
from coltran.photo import squares
from coltran.photo.view import View

WEIGHT = 1.0  # where a pipeline has a guide and nothing is said: docs/guide.md has the table
CLAMP = 6.0  # nats: what no training has seen is not to outweigh everything


def check_weight(weight: float | None, guide: Guide | None) -> float:
    """The weight w that is meant: None is `WEIGHT` where there is a guide, and 0 where there is none.

    Raises:
        ValueError: below 0 or not finite, or above 0 without a guide.
    """
    if weight is None:
        return 0.0 if guide is None else WEIGHT
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"guidance must be a finite number from 0 on, got {weight}")
    if weight and guide is None:
        raise ValueError("guidance needs a guide, and these networks have none")
    return weight


@torch.no_grad()
def guidance_term(guide: Guide, gray: Tensor, log_p: Tensor, weight: float) -> Tensor:
    """What is added to the colorizer's logits.

    Args:
        gray: integers [B, 4 H, 4 H] in 0..255.
        log_p: float32 [B, H, H, 512], what the guide says of it.
        weight: w, from 0 on.

    Returns:
        float32 [B, H, H, 512].
    """
    ratio = log_p - F.embedding(shrink(gray), guide.table)
    return weight * ratio.clamp(-CLAMP, CLAMP)


def guide_grays(guide: Guide, view: View) -> list[Tensor]:
    """The squares of a view as the guide takes them, uint8 [1, 4 H, 4 H] each."""
    height, width = view.gray_low.shape
    gray = area_resize(view.gray_high, (SCALE * height, SCALE * width))  # the same where that is its size
    found = (view.square(gray, k, SCALE * min(height, width)) for k in range(len(view.begins)))
    return [torch.from_numpy(np.ascontiguousarray(square))[None].to(guide.table.device) for square in found]


@torch.no_grad()
def log_probabilities(guide: Guide, grays: Sequence[Tensor]) -> list[Tensor]:
    """What the guide says of each square of `guide_grays`, float32 [side, side, 512]."""
    return [guide(gray)[0] for gray in grays]


def probabilities(guide: Guide, view: View) -> np.ndarray:
    """The guide's distribution of each cell of a view, float32 [h, w, 512]; where squares overlap, of the first."""
    return _joined(view, log_probabilities(guide, guide_grays(guide, view)))


def mean_colors(log_p: list[Tensor], view: View, temperature: float = 1.0) -> np.ndarray:
    """The colours that a guide expects on average, uint8 [h, w, 3], of what it says of each square."""
    parts = [expected_colors(one, temperature).round().to(torch.uint8).cpu().numpy() for one in log_p]
    return squares.join(parts, view.begins, view.axis)


def _joined(view: View, log_p: list[Tensor]) -> np.ndarray:
    """The probabilities of squares, one strip."""
    height, width = view.gray_low.shape
    found = np.empty((height, width, log_p[0].shape[-1]), np.float32)
    for k in reversed(range(len(log_p))):
        view.square(found, k, min(height, width))[:] = log_p[k].exp().cpu().numpy()
    return found


def expect(guide: Guide, view: View, temperature: float) -> tuple[np.ndarray, np.ndarray, float]:
    """The colours that a guide expects of a photograph, without any drawing.

    Args:
        temperature: see `coltran.networks.guide.expected_colors`.

    Returns:
        uint8 [h, w, 3]; their labels, int64 [h, w]; and the natural log of those under the guide, the sum.
    """
    log_p = log_probabilities(guide, guide_grays(guide, view))
    colors = mean_colors(log_p, view, temperature)
    labels = colors_to_labels(to_bits(colors, 8, 3))
    picked = np.take_along_axis(_joined(view, log_p), labels[..., None], -1)
    return colors, labels, float(np.log(picked).sum())
