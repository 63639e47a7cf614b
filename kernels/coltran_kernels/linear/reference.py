# SPDX-License-Identifier: Apache-2.0
"""A dense layer in plain torch, alone and with what stands around it in a residual network: the specification."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from coltran_kernels.layer_norm.reference import add_layer_norm

Affine = tuple[Tensor, Tensor]  # scale and shift of a norm, [K] or [B, K]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """`x W^T + bias`, negative values replaced by zero with `relu`."""
    y = F.linear(x, weight, bias)
    return F.relu(y) if relu else y


def embed(x: Tensor, embedded: tuple[Tensor, Tensor] | None) -> Tensor:
    """x [B, W, K] plus row `index` [B, W] of a table [labels, K]; nothing where the index is -1."""
    if embedded is None:
        return x
    table, index = embedded
    return x + torch.where(index[..., None] >= 0, F.embedding(index.clamp(min=0), table), 0).to(x.dtype)


def normed(
    x: Tensor,
    embedded: tuple[Tensor, Tensor] | None,
    norms: Sequence[Affine],
    eps: float,
    norm: Callable[..., Tensor] = add_layer_norm,
) -> Tensor:
    """What precedes the product: x [B, W, K] with a row of a table added, through layer norms one after another."""
    x = embed(x, embedded)
    for affine in norms:
        x = norm(x, None, *(t if t.dim() == 1 else t[:, None] for t in affine), eps).to(x.dtype)
    return x


def fused_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    embedded: tuple[Tensor, Tensor] | None,
    norms: Sequence[Affine],
    relu: bool,
    scale: Tensor | None,
    shift: Tensor | None,
    residual: Tensor | None,
    final: Tensor | None,
    out: Tensor | None,
    out_dtype: torch.dtype,
    eps: float,
    norm: Callable[..., Tensor] = add_layer_norm,
) -> tuple[Tensor, Tensor]:
    """See `coltran_kernels.fused_linear`; images that are final are computed again."""
    x = normed(x, embedded, norms, eps, norm)
    y = linear(x.to(weight.dtype), weight, None, False).to(torch.promote_types(x.dtype, torch.float32))
    if bias is not None:
        y = y + bias
    if relu:
        y = F.relu(y)
    if scale is not None:
        y = y * scale
    for added in (shift, residual):
        if added is not None:
            y = y + added
    return y.to(out_dtype) if out is None else out.copy_(y), x
