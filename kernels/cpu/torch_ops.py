# SPDX-License-Identifier: Apache-2.0
"""The operations by the fastest routes that torch has on the CPU.

Attention is `scaled_dot_product_attention` on views: rows as [B H, h, W, C], columns as [B, W, h, H, C] through
strides. The relative position table becomes its mask once a call.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from coltran_kernels.reference import condition, relative_bias


def axial_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    *,
    axis: str,
    causal: bool,
    q_scale: Tensor | None = None,
    q_shift: Tensor | None = None,
    k_scale: Tensor | None = None,
    k_shift: Tensor | None = None,
    v_scale: Tensor | None = None,
    v_shift: Tensor | None = None,
) -> Tensor:
    """See `coltran_kernels.axial_attention`."""
    q, k, v = condition(q, q_scale, q_shift), condition(k, k_scale, k_shift), condition(v, v_scale, v_shift)
    batch, height, width, heads, channels = q.shape
    # Attended axis next to last, heads before it: [B, lines, h, L, C].
    order = (0, 1, 3, 2, 4) if axis == "row" else (0, 2, 3, 1, 4)
    q, k, v = (t.permute(order) for t in (q, k, v))
    lines, length = q.shape[1], q.shape[3]
    q, k, v = (t.reshape(batch * lines, heads, length, channels) for t in (q, k, v))
    mask = None if bias is None else relative_bias(bias)
    if causal and mask is not None:
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        mask = mask.masked_fill(future, float("-inf"))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal and mask is None)
    out = out.view(batch, lines, heads, length, channels)
    return out.permute(0, 1, 3, 2, 4) if axis == "row" else out.permute(0, 3, 1, 2, 4)


def add_layer_norm(
    x: Tensor, residual: Tensor | None, scale: Tensor | None, shift: Tensor | None, eps: float
) -> Tensor:
    """See `coltran_kernels.add_layer_norm`."""
    if residual is not None:
        x = x + residual
    if scale is not None and scale.dim() == 1 and (shift is None or shift.dim() == 1):
        return F.layer_norm(x, x.shape[-1:], scale, shift, eps)
    return condition(F.layer_norm(x, x.shape[-1:], eps=eps), scale, shift)
