# SPDX-License-Identifier: Apache-2.0
"""Axial attention as batched matrix products on views, a few lines at a time: for training on the CPU, and where
the native kernels (`cpu.py`) cannot serve.

One head of one image is a batch of lines [n, L, C] that lie in the input with some stride, along rows and columns
alike, and the matrix products of torch read such batches as they are: no input is transposed or copied. They write
only contiguous batches at full speed, so each product goes to a buffer first. A step takes as many lines as leave the
buffers in the cache; they are allocated once.

For training the attention weights (the softmax of the scores) are kept where they take no more than twice the memory
of the queries, and computed again otherwise. `scaled_dot_product_attention` would keep them always: it leaves its fused
kernel when the gradient of the bias is wanted.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from coltran_kernels.attention.reference import relative_bias
from coltran_kernels.attention.registration import Operands, register_attention

SCORES = 1 << 16  # values in the scores of one step: 256 KiB in float32


def _mask(bias: Tensor | None, q: Tensor, length: int, causal: bool) -> Tensor:
    """What is added to the scores, [h or 1, L, L]."""
    mask = q.new_zeros(1, length, length) if bias is None else relative_bias(bias).to(q.dtype)
    if causal:
        future = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
        mask = mask.masked_fill(future, float("-inf"))
    return mask.contiguous()


def _together(length: int) -> int:
    """Lines in a step."""
    return max(1, SCORES // length**2)


def _keeps(length: int, channels: int) -> bool:
    """Whether the attention weights, L values a query, are kept for the backward."""
    return length <= 2 * channels


def _split(tensor: Tensor, axis: str) -> Tensor:
    """[B, H, W, h, C] -> [B, h, lines, L, C], a view."""
    return tensor.permute(0, 3, 1, 2, 4) if axis == "row" else tensor.permute(0, 3, 2, 1, 4)


def _steps(*tensors: Tensor) -> Iterator[tuple[int, list[Tensor]]]:
    """Each head and some of its lines, [n, L, ...] of every tensor [B, h, lines, L, ...], as views."""
    batch, heads, lines, length = tensors[0].shape[:4]
    together = _together(length)
    for image in range(batch):
        for line in range(0, lines, together):
            for head in range(heads):  # innermost, as the heads of a pixel are neighbours in memory
                yield head, [t[image, head, line : line + together] for t in tensors]


def _buffers(q: Tensor, squares: int) -> tuple[list[Tensor], Tensor]:
    """For the lines of a step, uninitialised: so many of [n, L, L], and one [n, L, C]."""
    lines, length, channels = q.shape[2:]
    n = min(lines, _together(length))
    return [q.new_empty(n, length, length) for _ in range(squares)], q.new_empty(n, length, channels)


def _attention(q: Tensor, k: Tensor, mask: Tensor, scores: Tensor, p: Tensor) -> Tensor:
    """Fills p [n, L, L] with the attention weights of q to k, [n, L, C] each, by way of the scores."""
    torch.baddbmm(mask, q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5, out=scores)
    return torch._softmax(scores, -1, False, out=p)


def _of_table(grad: Tensor) -> Tensor:
    """The gradient of a table [h, 2L] out of that of its expansion [h, L, L]: the sums along the diagonals."""
    heads, length, _ = grad.shape
    # With the last query first, row i begins at entry i of the table; rows of 2L - 1 shift each by one more.
    rows = F.pad(grad.flip(1), (0, length)).flatten(1)[:, : length * (2 * length - 1)]
    return F.pad(rows.unflatten(1, (length, -1)).sum(1), (0, 1))


def kept_shape(q: Tensor, axis: str, train: bool) -> tuple[int, ...]:
    """[B, h, lines, L, L], the attention weights of every line, where they are kept."""
    batch, height, width, heads, channels = q.shape
    lines, length = (height, width) if axis == "row" else (width, height)
    return (batch, heads, lines, length, length) if train and _keeps(length, channels) else (0,)


def forward(operands: Operands, bias: Tensor | None, *, axis: str, causal: bool, train: bool) -> tuple[Tensor, Tensor]:
    """See `register_attention`; takes q, k and v without scales or shifts."""
    q = operands[0]
    assert q is not None
    out = q.new_empty(q.shape)
    kept = q.new_empty(kept_shape(q, axis, train))
    q, k, v, of_out = (_split(t, axis) for t in (*operands, out) if t is not None)
    mask = _mask(bias, q, q.shape[3], causal)
    (scores, buffer), product = _buffers(q, 2)
    for head, (step_q, step_k, step_v, to, *keep) in _steps(q, k, v, of_out, *([kept] if kept.numel() else [])):
        n = len(step_q)
        p = _attention(step_q, step_k, mask[head % len(mask)], scores[:n], keep[0] if keep else buffer[:n])
        to.copy_(torch.bmm(p, step_v, out=product[:n]))
    return out, kept


def backward(
    operands: Operands, bias: Tensor | None, out: Tensor, kept: Tensor, grad: Tensor, *, axis: str, causal: bool
) -> list[Tensor]:
    """See `register_attention`."""
    grads = [out.new_empty(out.shape) for _ in range(3)]
    q, k, v, *others = (_split(t, axis) for t in (*operands, grad, *grads) if t is not None)
    mask = _mask(bias, q, q.shape[3], causal)
    dmask = torch.zeros_like(mask)
    scale = q.shape[-1] ** -0.5
    (dp_buffer, ds_buffer, p_buffer), product_buffer = _buffers(q, 3)
    for head, (step_q, step_k, step_v, g, dq, dk, dv, *keep) in _steps(
        q, k, v, *others, *([kept] if kept.numel() else [])
    ):  # fmt: skip
        n = len(step_q)
        dp, ds, product = dp_buffer[:n], ds_buffer[:n], product_buffer[:n]
        p = keep[0] if keep else _attention(step_q, step_k, mask[head % len(mask)], dp, p_buffer[:n])
        dv.copy_(torch.bmm(p.transpose(1, 2), g, out=product))
        torch.bmm(g, step_v.transpose(1, 2), out=dp)
        torch._softmax_backward_data(dp, p, -1, p.dtype, grad_input=ds)
        if bias is not None:
            dmask[head] += ds.sum(0)
        dq.copy_(torch.baddbmm(product, ds, step_k, beta=0, alpha=scale, out=product))
        dk.copy_(torch.baddbmm(product, ds.transpose(1, 2), step_q, beta=0, alpha=scale, out=product))
    return grads if bias is None else [*grads, _of_table(dmask).to(bias.dtype)]


attend = register_attention("cpu", forward, backward, kept_shape)
