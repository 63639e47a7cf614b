# SPDX-License-Identifier: Apache-2.0
"""The device that a name asks for, and how to train on it."""

from __future__ import annotations

import time
import warnings
from importlib.util import find_spec
from types import ModuleType

import torch

from coltran.devices import processes
from coltran.devices.train_device import TrainDevice, on_torch
from coltran.errors import UserError

PRECISIONS = ("float32", "bfloat16")


def device(name: str) -> torch.device:
    """The torch device of that name; under torchrun "cuda" is the GPU of this rank.

    Raises:
        UserError: there is no such device here.
    """
    if name.split(":")[0] == "xla":
        if processes.world_size() > 1:
            raise UserError("One process takes all XLA devices of a host: start it without torchrun.")
        return import_xla().device(name)
    if name == "cuda":
        name = f"cuda:{processes.local_gpu()}"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        there = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        there += ["mps"] if torch.backends.mps.is_available() else []
        there += ["xla"] if find_spec("torch_xla") else []
        raise UserError(f"There is no device {name!r} here; there is {', '.join(there)}.") from error
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


def train_device(device: torch.device, precision: str | None = None) -> TrainDevice:
    """How to train on a device.

    Args:
        device: as `device` gives it; of XLA all devices are taken.
        precision: "float32" or "bfloat16", of the matrix products, on a CPU and a GPU those of dense layers and
            attention; weights and sums are float32 in any case. None is bfloat16 on a TPU and float32 elsewhere.

    Raises:
        UserError: a precision that the device is not served with.
    """
    if device.type == "xla":
        return import_xla().train_device(precision)
    if precision == "bfloat16":
        require_bfloat16(device)
    return on_torch(device, bfloat16=precision == "bfloat16")


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def require_bfloat16(device: torch.device) -> None:
    """Checks that a CPU or a GPU multiplies bfloat16, and warns where it is slower at it than at float32.

    Raises:
        UserError: it has no units for it.
    """
    if not _has_bfloat16(device):
        raise UserError(f"--precision=bfloat16 needs a processor that multiplies bfloat16; {device} here does not.")
    float32, bfloat16 = (_product_seconds(device, dtype) for dtype in (torch.float32, torch.bfloat16))
    if bfloat16 > float32:
        text = f"Products in bfloat16 take {bfloat16 / float32:.1f} times as long as in float32 on {device} here."
        warnings.warn(f"{text} --precision=float32 will be faster.", stacklevel=2)


def _product_seconds(device: torch.device, dtype: torch.dtype) -> float:
    """The fastest of a few products of the size that a small network's dense layers have."""
    a, b = (torch.ones(size, 256, device=device, dtype=dtype) for size in (4096, 512))
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        float((a @ b.T)[-1, -1])  # waits for a GPU
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
