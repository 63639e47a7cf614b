# SPDX-License-Identifier: Apache-2.0
"""Drawing the labels of a row, and going from row to row, on tensors that stay where they are."""

from __future__ import annotations

import torch
from torch import Tensor

from coltran_kernels.dispatch import anything, require, select
from coltran_kernels.draw import reference
from coltran_kernels.types import RowDraws, RowState

_REASONS = {"reference": anything, "cpu": anything, "triton": anything, "xla": anything}


def row_state(
    batch: int, size: tuple[int, int], labels: int, device: torch.device, *, guided: bool, probabilities: bool,
    dtype: torch.dtype = torch.float32,
) -> RowState:  # fmt: skip
    """The state of B images of `size` = (H, W) before their first row; `dtype` is that of the probabilities."""

    def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(*shape, dtype=dtype, device=device)

    log_prob = zeros(batch, *size, dtype=dtype)
    return RowState(
        rows=torch.arange(-2, 0, device=device),
        labels=zeros(batch, *size, dtype=torch.int64),
        log_prob=log_prob,
        guided_log_prob=zeros(batch, *size, dtype=dtype) if guided else log_prob,
        probabilities=zeros(batch, *size, labels, dtype=dtype) if probabilities else None,
        above=zeros(batch, size[1], dtype=torch.int64),
        previous=zeros(batch, size[1], dtype=torch.int64),
        final=zeros(batch, dtype=torch.int32),
        first=zeros(batch, dtype=torch.int32),
        arrived=zeros(batch, dtype=torch.int32),
        unsettled=zeros(1, dtype=torch.int32),
        passes=zeros(batch, size[0], dtype=torch.int32),
    )


@torch.no_grad()
def begin_row(state: RowState, draws: RowDraws, *, implementation: str | None = None) -> None:
    """Goes to the next row, and guesses it: its labels are those of the row above, or what is imposed.

    Args:
        state: changed in place.
        draws: how it is drawn.
        implementation: "reference", "triton", "xla" or None.
    """
    if select("begin_row", implementation, state.labels, _REASONS) == "triton":
        from coltran_kernels.draw import triton  # imports triton, so only when wanted

        return triton.begin_row(state, draws)
    return reference.begin_row(state, draws)


@torch.no_grad()
def settle(
    state: RowState, draws: RowDraws, logits: Tensor, *, argmax: bool, nucleus: bool, implementation: str | None = None
) -> None:
    """Draws all labels of a row from logits that follow from the labels it had, and says how many are final.

    Up to the first label that is not what it was, that one included, they are (`decode_row_jacobi`). Images whose row
    is final stay as they are.

    Args:
        state: changed in place.
        draws: how it is drawn.
        logits: [B, W, S], contiguous, float32.
        argmax: take the first of the most probable labels.
        nucleus: heed top-p.
        implementation: "reference", "triton", "xla" or None.

    Raises:
        ValueError: logits of another shape.
    """
    batch, _, width = state.labels.shape
    require(logits.shape[:2] == (batch, width) and logits.is_contiguous(), f"settle: logits is {tuple(logits.shape)}")
    if select("settle", implementation, logits, _REASONS) == "triton":
        from coltran_kernels.draw import triton

        return triton.settle(state, draws, logits, argmax=argmax, nucleus=nucleus)
    return reference.settle(state, draws, logits, argmax=argmax, nucleus=nucleus)
