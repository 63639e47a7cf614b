# SPDX-License-Identifier: Apache-2.0
"""Residual sum, layer norm over the last axis, scale and shift."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from coltran_kernels.dispatch import anything, require, select
from coltran_kernels.elementwise import affine
from coltran_kernels.layer_norm import reference, xla


def add_layer_norm(
    x: Tensor,
    residual: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    eps: float = 1e-3,
    *,
    implementation: str | None = None,
) -> Tensor:
    """Residual sum, layer norm over the last axis, scale and shift: `normalise(x + residual) * scale + shift`.

    Args:
        x: [..., D].
        residual: the same shape, or None.
        scale, shift: broadcastable to x: [D], or per image [B, 1, 1, D] (conditional layer norm, ColTran table 1).
        eps: added to the variance; the original program uses 1e-3.
        implementation: "reference", "cpu", "triton" (scale and shift of those two shapes, D up to 8192), "xla" or None.

    Returns:
        [..., D].

    Raises:
        ValueError: `residual` of another shape than `x`.
        NotImplementedError: the named implementation cannot serve these tensors.
    """
    if residual is not None:
        require(residual.shape == x.shape, f"add_layer_norm: residual is {tuple(residual.shape)}, x {tuple(x.shape)}")

    def triton_reason() -> str | None:
        from coltran_kernels.layer_norm import triton  # imports triton, so only when wanted

        return triton.unsupported_reason(x, scale, shift)

    reasons = {"reference": anything, "cpu": anything, "triton": triton_reason, "xla": anything}
    chosen = select("add_layer_norm", implementation, x, reasons)
    if chosen == "triton":
        from coltran_kernels.layer_norm import triton

        return triton.normalise(x, residual, scale, shift, eps)[0]
    if chosen == "cpu":
        return _by_torch(x, residual, scale, shift, eps)
    return (xla if chosen == "xla" else reference).add_layer_norm(x, residual, scale, shift, eps)


def _by_torch(x: Tensor, residual: Tensor | None, scale: Tensor | None, shift: Tensor | None, eps: float) -> Tensor:
    """On the CPU torch's own norm is as fast as a kernel would be."""
    if residual is not None:
        x = x + residual
    if scale is not None and scale.dim() == 1 and (shift is None or shift.dim() == 1):
        return F.layer_norm(x, x.shape[-1:], scale, shift, eps)
    return affine(F.layer_norm(x, x.shape[-1:], eps=eps), scale, shift)
