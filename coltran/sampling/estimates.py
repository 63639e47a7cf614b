# SPDX-License-Identifier: Apache-2.0
"""One value out of an upsampler's distribution over the 256 values of a channel.

The most probable one is the original program's. But a distribution may have several peaks or a flat top, and then a
slightly higher one far away wins: a single red value of 120 in a white sky is a cyan dot. The mean has the least
squared error and the median the least absolute error that the distribution allows, if it is the true one. A network's
is too broad, the more the less it is trained: the mean of a sharpened one errs less than either (docs/photographs.md).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SHARPENED = 0.3  # the temperature of `sharp_mean`


def most_probable(logits: Tensor) -> Tensor:
    """The first of the most probable values: [..., 256] -> uint8 [...]."""
    return logits.argmax(-1).to(torch.uint8)


def mean(logits: Tensor) -> Tensor:
    """The expected value, rounded: [..., 256] -> uint8 [...]."""
    values = torch.arange(logits.shape[-1], dtype=logits.dtype, device=logits.device)
    return (logits.softmax(-1) @ values).round().to(torch.uint8)


def sharp_mean(logits: Tensor) -> Tensor:
    """The mean of the probabilities raised to the power 1 / SHARPENED and normalised: [..., 256] -> uint8 [...]."""
    return mean(logits / SHARPENED)


def median(logits: Tensor) -> Tensor:
    """The first value at which half of the probability is reached: [..., 256] -> uint8 [...]."""
    below = logits.softmax(-1).cumsum(-1) < 0.5
    return below.sum(-1).clamp(max=logits.shape[-1] - 1).to(torch.uint8)


Estimate = Callable[[Tensor], Tensor]
ESTIMATES: dict[str, Estimate] = {
    "argmax": most_probable,
    "mean": mean,
    "sharp": sharp_mean,
    "median": median,
}
