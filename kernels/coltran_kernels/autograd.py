# SPDX-License-Identifier: Apache-2.0
"""What the operations that compute their own gradients share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def sum_type(dtype: torch.dtype) -> torch.dtype:
    """What sums over values of a type are kept in: float32, and float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def present(tensors: Sequence[Tensor | None]) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor is not None]


def like_contiguous(tensors: Sequence[Tensor | None]) -> list[Tensor]:
    return [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in present(tensors)]


def spread(found: Sequence[Tensor], tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The gradients of the tensors that are present, with None in the places of the others."""
    remaining = iter(found)
    return [None if tensor is None else next(remaining) for tensor in tensors]


def may_train(*tensors: Tensor | None) -> bool:
    """Whether gradients of any of the tensors may be asked for later."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
