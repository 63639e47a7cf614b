# SPDX-License-Identifier: Apache-2.0
"""Attention in plain torch: the specification that every other implementation is tested against.

Sizes: B images of H x W pixels, h heads of C channels, L the attended length.
"""

from __future__ import annotations

import torch
from torch import Tensor

from coltran_kernels.types import Operand


def relative_bias(table: Tensor) -> Tensor:
    """Expand a table [h, 2L] to [h, L, L]: entry (q, k) is table[k - q + L - 1]."""
    length = table.shape[1] // 2
    return table.unfold(1, length, 1)[:, :length].flip(1)  # the row of query q is the window that starts at L - 1 - q


def condition(x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    """`x * scale + shift`, either of which may be absent."""
    if scale is not None:
        x = x * scale
    return x if shift is None else x + shift


def axial_attention(q: Operand, k: Operand, v: Operand, bias: Tensor | None, *, axis: str, causal: bool) -> Tensor:
    """softmax(q k^T / sqrt(C) + bias [+ mask]) v along one axis of [B, H, W, h, C] tensors."""
    return _attend(condition(*q), condition(*k), condition(*v), bias, axis, causal)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, axis: str, causal: bool) -> Tensor:
    if axis == "column":
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    length, channels = q.shape[2], q.shape[4]
    scores = torch.einsum("blqhc,blkhc->blhqk", q * channels**-0.5, k)
    if bias is not None:
        scores = scores + relative_bias(bias)
    if causal:
        future = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    out = torch.einsum("blhqk,blkhc->blqhc", scores.softmax(-1), v)
    return out.transpose(1, 2) if axis == "column" else out


def cached_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention of one row's queries [B, W, h, C] over the cached rows [B, T, W, h, C] of its columns."""
    scores = torch.einsum("bwhc,btwhc->bwht", q * q.shape[-1] ** -0.5, k) + bias
    return torch.einsum("bwht,btwhc->bwhc", scores.softmax(-1), v)


def append_attention(qkv: Tensor, cache: Tensor, bias: Tensor, row: Tensor) -> Tensor:
    """Puts a row's keys and values [B, W, 3 h C] into the cache [2, B, W, h, H, C] and attends to it up to that row."""
    height = cache.shape[4]
    q, *own = qkv.unflatten(-1, (3, len(bias), -1)).unbind(2)
    cache.index_copy_(4, row, torch.stack(own)[:, :, :, :, None].to(cache.dtype))
    keys, values = cache.to(bias.dtype)
    other = torch.arange(height, device=row.device)
    scores = torch.einsum("bwhc,bwhtc->bwht", q.to(bias.dtype) * q.shape[-1] ** -0.5, keys)
    scores = scores + bias.index_select(1, other - row + height - 1)
    scores = scores.masked_fill(other > row, float("-inf"))
    past = values.masked_fill((other > row)[:, None], 0)  # what is not there yet may be anything
    return torch.einsum("bwht,bwhtc->bwhc", scores.softmax(-1), past).flatten(-2).to(qkv.dtype)
