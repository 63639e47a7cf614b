# SPDX-License-Identifier: Apache-2.0
"""Which implementation of an operation serves a call.

`implementation` is explicit. None takes the best that serves the tensors' device; a named one that cannot serve raises
NotImplementedError and says why. Nothing falls back silently.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings

import torch
from torch import Tensor

from coltran_kernels.cpu import native

IMPLEMENTATIONS = ("reference", "triton", "cpu", "xla")


def choose(name: str, requested: str | None, available: tuple[str, ...], tensor: Tensor) -> str:
    """The implementation of operation `name` that serves `tensor`, out of those `available`."""
    if requested is None:
        best = {"cpu": "cpu", "cuda": "triton", "xla": "xla"}.get(tensor.device.type, "reference")
        return best if best in available else "reference"
    if requested not in IMPLEMENTATIONS:
        raise ValueError(f"{name}: implementation must be one of {IMPLEMENTATIONS} or None, got {requested!r}")
    if requested not in available:
        raise NotImplementedError(f"{name} has no {requested!r} implementation, it has {available}")
    if requested in ("cpu", "xla") and tensor.device.type != requested:
        raise NotImplementedError(f"{name}: implementation {requested!r} cannot serve a tensor on {tensor.device}")
    if requested == "triton" and importlib.util.find_spec("triton") is None:
        raise NotImplementedError(f"{name}: implementation 'triton' needs the package triton, which is not installed")
    if requested == "triton" and not _serves_triton(tensor):
        raise NotImplementedError(f"{name}: implementation 'triton' cannot serve a tensor on {tensor.device}")
    return requested


@functools.cache
def _say_once(reason: str) -> None:
    warnings.warn(f"decoding in plain torch, without the native kernels: {reason}", RuntimeWarning, stacklevel=4)


def serves_natively(name: str, requested: str | None, unsupported: str | None) -> bool:
    """Whether the native kernel takes this call: where it can, unless another implementation was asked for."""
    if requested not in (None, "cpu"):
        return False
    if unsupported is None and not torch.compiler.is_compiling():
        unsupported = native.why_not()
        if unsupported is not None and requested is None:
            _say_once(unsupported)
    if unsupported is not None and requested == "cpu":
        raise NotImplementedError(f"{name}: implementation 'cpu' cannot serve: {unsupported}")
    return unsupported is None


def _serves_triton(tensor: Tensor) -> bool:
    """Triton's kernels take tensors on a GPU, and any in its interpreter."""
    from coltran_kernels.triton.tiles import INTERPRETED

    return INTERPRETED or tensor.device.type == "cuda"


def require_choice(requested: str | None, why_not: str) -> None:
    """Raises where an implementation that cannot serve was asked for by name."""
    if requested is not None:
        raise NotImplementedError(why_not)


def require(condition: bool, message: str) -> None:
    """Raises ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)
