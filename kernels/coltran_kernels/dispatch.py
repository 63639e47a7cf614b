# SPDX-License-Identifier: Apache-2.0
"""Which implementation of an operation serves a call, and why another one does not.

`implementation` is explicit. None takes the best that serves the tensors' device; a named one that cannot serve raises
NotImplementedError and says why. Nothing falls back silently.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Callable, Mapping

from torch import Tensor

from coltran_kernels import native

IMPLEMENTATIONS = ("reference", "triton", "cpu", "xla")
_BEST = {"cpu": "cpu", "cuda": "triton", "xla": "xla"}  # by kind of device

Reasons = Mapping[str, Callable[[], "str | None"]]


def anything() -> None:
    """Of an implementation that takes whatever its device holds: there is no reason why it cannot serve."""


def unsupported_reason(implementation: str, tensor: Tensor, reasons: Reasons) -> str | None:
    """Why an implementation cannot serve a call, or None.

    Args:
        implementation: one of `IMPLEMENTATIONS`.
        tensor: whose device the others share.
        reasons: of each implementation that the operation has, what it says of the other arguments.
    """
    if implementation not in reasons:
        return f"the operation has {', '.join(reasons)}"
    kind = tensor.device.type
    if implementation == "triton":
        if importlib.util.find_spec("triton") is None:
            return "it needs the package triton, which is not installed"
        from coltran_kernels import triton_common  # imports triton, so only when wanted

        if kind != "cuda" and not triton_common.INTERPRETED:
            return f"it does not take a tensor on {tensor.device}"
    elif implementation != "reference" and kind != implementation:
        return f"it does not take a tensor on {tensor.device}"
    return reasons[implementation]()


def select(operation: str, requested: str | None, tensor: Tensor, reasons: Reasons) -> str:
    """The implementation that serves a call; arguments as of `unsupported_reason`.

    Raises:
        ValueError: there is no implementation of that name.
        NotImplementedError: the requested one cannot serve.
    """
    if requested is not None:
        if requested not in IMPLEMENTATIONS:
            names = f"one of {IMPLEMENTATIONS} or None"
            raise ValueError(f"{operation}: implementation must be {names}, got {requested!r}")
        if (reason := unsupported_reason(requested, tensor, reasons)) is not None:
            raise NotImplementedError(f"{operation}: implementation {requested!r} cannot serve: {reason}")
        return requested
    best = _BEST.get(tensor.device.type, "reference")
    if best not in reasons:
        return "reference"
    reason = reasons[best]()
    if reason is None:
        return best
    if best == "cpu" and reason == native.unavailable():
        _warn_once(reason)
    return "reference"


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(f"computing in plain torch, without the native kernels: {reason}", RuntimeWarning, stacklevel=4)


def require(condition: bool, message: str) -> None:
    """Raises ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)
