# SPDX-License-Identifier: Apache-2.0
"""The device that a name asks for, and how to train on it."""

from __future__ import annotations

from types import ModuleType

import torch

from coltran.devices.place import Place, on_torch
from coltran.errors import UserError

PRECISIONS = ("float32", "bfloat16")


def device(name: str) -> torch.device:
    """The torch device of that name.

    Raises:
        UserError: there is no such device here.
    """
    if name.split(":")[0] == "xla":
        return import_xla().device(name)
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"The device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return torch.device(name)


def import_xla() -> ModuleType:
    """`coltran.devices.xla`, which imports torch_xla.

    Raises:
        UserError: torch_xla is not installed, or does not fit the installed torch.
    """
    try:
        from coltran.devices import xla
    except ModuleNotFoundError as error:
        if error.name != "torch_xla":
            raise
        raise UserError("The device xla needs the package torch_xla: pip install coltran[xla].") from error
    except ImportError as error:
        reason = f"{torch.__version__}: {str(error).splitlines()[0]}"
        raise UserError(f"torch_xla cannot be used with torch {reason}.") from error
    return xla


def place(device: torch.device, precision: str | None = None) -> Place:
    """How to train on a device.

    Args:
        device: as `device` gives it; of XLA all devices are taken.
        precision: "float32" or "bfloat16", of the matrix products; weights and sums are float32 in any case. None is
            bfloat16 on a TPU and float32 elsewhere.

    Raises:
        UserError: a precision that the device is not served with.
    """
    if device.type == "xla":
        return import_xla().place(precision)
    if precision == "bfloat16":
        raise UserError(f"--precision=bfloat16 is for --device=xla: a training on {device} computes in float32.")
    return on_torch(device)
