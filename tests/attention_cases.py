# SPDX-License-Identifier: Apache-2.0
"""Inputs of axial attention at odd and even sizes, and the error budget of an implementation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from coltran_kernels import axial_attention

OPERANDS = ("q", "q_scale", "q_shift", "k", "k_scale", "k_shift", "v", "v_scale", "v_shift", "bias")


def make_operands(
    length: int,
    channels: int,
    axis: str,
    *,
    bias: bool = True,
    conditioned: str = "qkv",
    batch: int = 2,
    lines: int = 2,
) -> dict[str, Tensor]:
    """Random float64 operands of 2 heads; q, k and v are strided views of one tensor, the scales of another.

    Scales and shifts are there for those of q, k and v that `conditioned` names.
    """
    height, width = (lines, length) if axis == "row" else (length, lines)
    shape = (batch, height, width, 2, channels)
    whole = torch.randn(batch, height, width, 3, 2, channels, dtype=torch.float64)
    operands = dict(zip("qkv", whole.unbind(3), strict=True))
    for name in conditioned:
        both = torch.randn(batch, height, width, 2, 2, channels, dtype=torch.float64)
        operands[f"{name}_scale"], operands[f"{name}_shift"] = 1 + 0.5 * both[..., 0, :], both[..., 1, :]
    if bias:
        operands["bias"] = torch.randn(2, 2 * length, dtype=torch.float64)
    assert all(tensor.shape == shape for name, tensor in operands.items() if name != "bias")
    return operands


def results(operands: dict[str, Tensor], dtype: torch.dtype, implementation: str, **options: Any) -> dict[str, Tensor]:
    """The output ("out"), and the gradient of each operand for one fixed gradient of the output."""
    leaves = {name: tensor.to(dtype).requires_grad_() for name, tensor in operands.items()}
    out = axial_attention(**leaves, **options, implementation=implementation)
    weights = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(out)
    gradients = torch.autograd.grad(out, list(leaves.values()), weights)
    return {"out": out.detach()} | dict(zip(leaves, gradients, strict=True))


def assert_within_budget(found: dict[str, Tensor], plain: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    """Each result is at most twice as far from the exact one, in norm, as plain torch's of the same dtype is.

    In norm, since the largest of some thousand rounding errors varies by itself: see docs/log.md for both measures.
    Plain torch may happen to be exact (one pixel attends to itself alone), so one rounding is always allowed.
    """
    for name, expected in exact.items():
        rounding = torch.finfo(found[name].dtype).eps * expected.norm()
        allowed = 2 * (plain[name].double() - expected).norm() + rounding
        error = (found[name].double() - expected).norm()
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"
