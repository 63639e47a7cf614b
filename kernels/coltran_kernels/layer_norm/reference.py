# SPDX-License-Identifier: Apache-2.0
"""Layer norm in plain torch: the specification."""

from __future__ import annotations

import torch
from torch import Tensor

from coltran_kernels.attention.reference import condition


def add_layer_norm(
    x: Tensor, residual: Tensor | None, scale: Tensor | None, shift: Tensor | None, eps: float
) -> Tensor:
    """`normalise(x + residual) * scale + shift` over the last axis, with the biased variance."""
    if residual is not None:
        x = x + residual
    mean = x.mean(-1, keepdim=True)
    variance = (x - mean).square().mean(-1, keepdim=True)
    return condition((x - mean) * torch.rsqrt(variance + eps), scale, shift)
