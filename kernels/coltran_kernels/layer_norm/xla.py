# SPDX-License-Identifier: Apache-2.0
"""Layer norm for a compiler of whole graphs, which fuses it; statistics are computed in float32 at least."""

from __future__ import annotations

import torch
from torch import Tensor

from coltran_kernels.autograd import sum_type
from coltran_kernels.elementwise import affine


def add_layer_norm(
    x: Tensor, residual: Tensor | None, scale: Tensor | None, shift: Tensor | None, eps: float
) -> Tensor:
    """`normalise(x + residual) * scale + shift` over the last axis, with the biased variance."""
    dtype = x.dtype
    if residual is not None:
        x = x + residual
    x = x.to(sum_type(dtype))
    centred = x - x.mean(-1, keepdim=True)
    normalised = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    return affine(normalised.to(dtype), scale, shift)
