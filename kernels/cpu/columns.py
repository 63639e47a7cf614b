# SPDX-License-Identifier: Apache-2.0
"""`cached_attention` by the native kernel: reads the cached keys and values where they lie, whatever their strides."""

from __future__ import annotations

import torch
from torch import Tensor

from coltran_kernels.cpu import native, structures


def unsupported(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> str | None:
    """Why the kernel cannot serve these tensors, or None."""
    if (reason := native.unsuited(q, k, v, bias)) is not None:
        return reason
    if k.stride(-1) != 1 or k.stride() != v.stride():
        return "it needs contiguous channels, and keys that lie as the values do"
    return None


@torch.no_grad()
def cached_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, *, target: int = -1) -> Tensor:
    """See `coltran_kernels.cached_attention`. `target`, an index of `native.targets()`, is for the tests."""
    batch, length, width, heads, channels = k.shape
    library, threads = native.load(), torch.get_num_threads()
    # These must stay alive until the kernel has returned: the struct holds addresses only.
    q = q if q.stride()[-2:] == (channels, 1) else q.contiguous()
    bias = bias if bias.stride(1) == 1 else bias.contiguous()
    out = native.empty(batch, width, heads, channels)
    workspace = native.empty(threads, -(-length // 16) * 16)
    column = structures.Column(
        batch=batch, width=width, heads=heads, channels=channels, length=length,
        q=structures.term(q[..., 0, :]), keys=structures.term(k[:, 0, :, 0]), values=structures.term(v[:, 0, :, 0]),
        head=k.stride(3), step=k.stride(1), bias=bias.data_ptr(), bias_stride=bias.stride(0),
        out=out.data_ptr(), workspace=workspace.data_ptr(),
    )  # fmt: skip
    library.coltran_attend_columns(column, threads, target)
    return out
