# SPDX-License-Identifier: Apache-2.0
"""Attention for a compiler of whole graphs: fixed shapes, no gathers, and gradients pass through.

    out = softmax(q k^T / sqrt(C) + bias [+ mask]) v

The compiler fuses what lies between two matrix products, so there is nothing to fuse here. What it cannot do well it is
not asked to do: the bias is spread along the diagonals by repeating and cutting, where indexing would put a gather into
the forward and a scatter into the backward. The softmax is computed in float32 at least.

Sizes: B images of H x W pixels, h heads of C channels, L the attended length.
"""

from __future__ import annotations

import torch
from torch import Tensor

from coltran_kernels.autograd import sum_type
from coltran_kernels.elementwise import affine
from coltran_kernels.types import Operand


def relative_bias(table: Tensor) -> Tensor:
    """Spreads a table [h, 2L] over the diagonals: [h, L, L], where (q, k) is table[k - q + L - 1].

    In the table repeated L times, a step of 2L - 1 is a step of -1 in the table: each query's row starts one earlier.
    """
    heads, length = table.shape[0], table.shape[1] // 2
    repeated = table[:, None].expand(heads, length, 2 * length).reshape(heads, -1)
    shifted = repeated[:, length - 1 : length - 1 + length * (2 * length - 1)]
    return shifted.reshape(heads, length, 2 * length - 1)[:, :, :length]


def hide_future(scores: Tensor) -> Tensor:
    """Scores [..., L, L] with minus infinity where the key comes after the query."""
    position = torch.arange(scores.shape[-1], device=scores.device)
    return scores.masked_fill(position > position[:, None], float("-inf"))


def axial_attention(q: Operand, k: Operand, v: Operand, bias: Tensor | None, *, axis: str, causal: bool) -> Tensor:
    """See `coltran_kernels.axial_attention`."""
    return _attend(affine(*q), affine(*k), affine(*v), bias, axis, causal)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, axis: str, causal: bool) -> Tensor:
    # i is the axis that stays, q and k run along the other.
    scores_of, sums_of = {
        "row": ("biqhc,bikhc->bihqk", "bihqk,bikhc->biqhc"),
        "column": ("bqihc,bkihc->bihqk", "bihqk,bkihc->bqihc"),
    }[axis]
    scores = torch.einsum(scores_of, q * q.shape[-1] ** -0.5, k).to(sum_type(q.dtype))
    if bias is not None:
        scores = scores + relative_bias(bias)
    if causal:
        scores = hide_future(scores)
    return torch.einsum(sums_of, scores.softmax(-1).to(v.dtype), v)


def cached_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """One row's queries [B, W, h, C] over the cached rows [B, T, W, h, C] of its columns."""
    scores = torch.einsum("bwhc,btwhc->bwht", q * q.shape[-1] ** -0.5, k).to(sum_type(q.dtype)) + bias
    return torch.einsum("bwht,btwhc->bwhc", scores.softmax(-1).to(v.dtype), v)
