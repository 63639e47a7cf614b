# SPDX-License-Identifier: Apache-2.0
"""The operations by the fastest routes that there are on the CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from coltran_kernels import reference
from coltran_kernels.cpu import axial, native, trained
from coltran_kernels.cpu.attention import attend
from coltran_kernels.elementwise import affine
from coltran_kernels.operators import may_train


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
    """See `coltran_kernels.axial_attention`. Natively where that can be and no gradient is wanted."""
    operands = (q, q_scale, q_shift, k, k_scale, k_shift, v, v_scale, v_shift)
    plain = not torch.compiler.is_compiling() and not may_train(*operands, bias)
    if plain and axial.unsupported(operands, bias) is None and native.why_not() is None:
        return axial.axial_attention(operands, bias, axis=axis, causal=causal)
    q, k, v = affine(q, q_scale, q_shift), affine(k, k_scale, k_shift), affine(v, v_scale, v_shift)
    train = may_train(q, k, v, bias)
    return attend(q, None, None, k, None, None, v, None, None, bias, axis, causal, train)[0]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """See `coltran_kernels.linear`."""
    return (trained if trained.serves(x, weight, bias) else reference).linear(x, weight, bias, relu)


def add_layer_norm(
    x: Tensor, residual: Tensor | None, scale: Tensor | None, shift: Tensor | None, eps: float
) -> Tensor:
    """See `coltran_kernels.add_layer_norm`."""
    if residual is not None:
        x = x + residual
    if scale is not None and scale.dim() == 1 and (shift is None or shift.dim() == 1):
        return F.layer_norm(x, x.shape[-1:], scale, shift, eps)
    return affine(F.layer_norm(x, x.shape[-1:], eps=eps), scale, shift)
