# SPDX-License-Identifier: Apache-2.0
"""What torch does as well as a kernel would, on any device."""

from __future__ import annotations

import torch
from torch import Tensor


def affine(x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    """`x * scale + shift`, either of which may be absent, in one pass."""
    if scale is None:
        return x if shift is None else x + shift
    return x * scale if shift is None else torch.addcmul(shift, x, scale)
