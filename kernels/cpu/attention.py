# SPDX-License-Identifier: Apache-2.0
"""Axial attention as batched matrix products on views, a few lines at a time, for the CPU.

One head of one image is a batch of lines [n, L, C] that lie in the input with some stride, along rows and columns
alike, and the matrix products of torch read such batches as they are: no input is transposed or copied. They write
only contiguous batches at full speed, so each product goes to a buffer first. A step takes as many lines as leave the
buffers in the cache; they are allocated once.

The backward computes the scores again. With the gradient of the bias wanted, `scaled_dot_product_attention` would
leave its fused kernel for one that keeps all scores of all lines.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from coltran_kernels.operators import Operands, register_attention
from coltran_kernels.reference import relative_bias

SCORES = 1 << 17  # values in the scores of one step: half a MiB in float32


def _mask(bias: Tensor | None, q: Tensor, length: int, causal: bool) -> Tensor:
    """What is added to the scores, [h or 1, L, L]."""
    mask = q.new_zeros(1, length, length) if bias is None else relative_bias(bias).to(q.dtype)
    if causal:
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        mask = mask.masked_fill(future, float("-inf"))
    return mask.contiguous()


def _together(length: int) -> int:
    """Lines in a step."""
    return max(1, SCORES // length**2)


def _steps(axis: str, *tensors: Tensor) -> Iterator[tuple[int, list[Tensor]]]:
    """Each head and some of its lines, [n, L, C] of every tensor [B, H, W, h, C], as views."""
    batch, height, width, heads, _ = tensors[0].shape
    lines, length = (height, width) if axis == "row" else (width, height)
    ordered = [t if axis == "row" else t.transpose(1, 2) for t in tensors]
    together = _together(length)
    for image in range(batch):
        for head in range(heads):
            for line in range(0, lines, together):
                yield head, [t[image, line : line + together, :, head] for t in ordered]


def _buffers(q: Tensor, axis: str, scores: int) -> tuple[list[Tensor], Tensor]:
    """Uninitialised: `scores` of [n, L, L], and one [n, L, C], for the lines of a step."""
    lines, length = q.shape[1:3] if axis == "row" else (q.shape[2], q.shape[1])
    together = min(lines, _together(length))
    square = [torch.empty(together, length, length, dtype=q.dtype) for _ in range(scores)]
    return square, torch.empty(together, length, q.shape[4], dtype=q.dtype)


def _attention(q: Tensor, k: Tensor, mask: Tensor, scores: Tensor, p: Tensor) -> Tensor:
    """Fills p [n, L, L] with the attention of q to k, [n, L, C] each, by way of the scores."""
    torch.baddbmm(mask, q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5, out=scores)
    return torch._softmax(scores, -1, False, out=p)


def _of_table(grad: Tensor) -> Tensor:
    """The gradient of a table [h, 2L] out of that of its expansion [h, L, L]: the sums along the diagonals."""
    heads, length, _ = grad.shape
    # With the last query first, row i begins at entry i of the table; rows of 2L - 1 shift each by one more.
    rows = F.pad(grad.flip(1), (0, length)).flatten(1)[:, : length * (2 * length - 1)]
    return F.pad(rows.unflatten(1, (length, -1)).sum(1), (0, 1))


def forward(operands: Operands, bias: Tensor | None, *, axis: str, causal: bool) -> tuple[Tensor, Tensor]:
    """See `register_attention`; keeps nothing, and takes q, k and v without scales or shifts."""
    q, k, v = (t for t in operands if t is not None)
    out = torch.empty(q.shape, dtype=q.dtype)
    mask = _mask(bias, q, q.shape[2 if axis == "row" else 1], causal)
    squares, product = _buffers(q, axis, 2)
    for head, (of_q, of_k, of_v, of_out) in _steps(axis, q, k, v, out):
        n = len(of_q)
        p = _attention(of_q, of_k, mask[head % len(mask)], *(square[:n] for square in squares))
        of_out.copy_(torch.bmm(p, of_v, out=product[:n]))
    return out, q.new_empty(0)


def backward(
    operands: Operands, bias: Tensor | None, out: Tensor, kept: Tensor, grad: Tensor, *, axis: str, causal: bool
) -> list[Tensor]:
    """See `register_attention`."""
    q, k, v = (t for t in operands if t is not None)
    dq, dk, dv = (torch.empty(q.shape, dtype=q.dtype) for _ in range(3))
    mask = _mask(bias, q, q.shape[2 if axis == "row" else 1], causal)
    dmask = torch.zeros_like(mask)
    scale = q.shape[-1] ** -0.5
    squares, whole_product = _buffers(q, axis, 3)
    for head, (of_q, of_k, of_v, g, of_dq, of_dk, of_dv) in _steps(axis, q, k, v, grad, dq, dk, dv):
        n = len(of_q)
        dp, p, ds = (square[:n] for square in squares)
        product = whole_product[:n]
        _attention(of_q, of_k, mask[head % len(mask)], dp, p)
        of_dv.copy_(torch.bmm(p.transpose(1, 2), g, out=product))
        torch.bmm(g, of_v.transpose(1, 2), out=dp)
        torch._softmax_backward_data(dp, p, -1, p.dtype, grad_input=ds)
        if bias is not None:
            dmask[head] += ds.sum(0)
        of_dq.copy_(torch.baddbmm(product, ds, of_k, beta=0, alpha=scale, out=product))
        of_dk.copy_(torch.baddbmm(product, ds.transpose(1, 2), of_q, beta=0, alpha=scale, out=product))
    return [dq, dk, dv] if bias is None else [dq, dk, dv, _of_table(dmask).to(bias.dtype)]


attend = register_attention("cpu", forward, backward, lambda shape, axis: (0,))
