# SPDX-License-Identifier: Apache-2.0
"""A dense layer in plain torch, alone and with what stands around it in a residual network: the specification."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from coltran_kernels.layer_norm.reference import add_layer_norm
from coltran_kernels.types import Epilogue, Pending


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """`x W^T + bias`, negative values replaced by zero with `relu`."""
    y = F.linear(x, weight, bias)
    return F.relu(y) if relu else y


def normed(pending: Pending, eps: float, norm: Callable[..., Tensor] = add_layer_norm) -> Tensor:
    """What precedes a product: x with a row of a table added, through the norms one after another, [B, W, K]."""
    x = pending.x
    if pending.embedded is not None:
        table, index = pending.embedded
        x = x + torch.where(index[..., None] >= 0, F.embedding(index.clamp(min=0), table), 0).to(x.dtype)
    for affine in pending.norms:
        x = norm(x, None, *(t if t.dim() == 1 else t[:, None] for t in affine), eps).to(x.dtype)
    return x


def fused_linear(
    pending: Pending,
    weight: Tensor,
    epilogue: Epilogue,
    out: Tensor | None,
    out_dtype: torch.dtype,
    eps: float,
    norm: Callable[..., Tensor] = add_layer_norm,
) -> tuple[Tensor, Tensor]:
    """See `coltran_kernels.fused_linear`."""
    x = normed(pending, eps, norm)
    y = linear(x.to(weight.dtype), weight, None, False).to(torch.promote_types(x.dtype, torch.float32))
    if epilogue.bias is not None:
        y = y + epilogue.bias
    if epilogue.relu:
        y = F.relu(y)
    if epilogue.scale is not None:
        y = y * epilogue.scale
    for added in (epilogue.shift, epilogue.residual):
        if added is not None:
            y = y + added
    return y.to(out_dtype) if out is None else out.copy_(y), x
