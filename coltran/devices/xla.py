# SPDX-License-Identifier: Apache-2.0
"""Training through torch-xla: one process, all its devices, SPMD over the batch.

This is the one module of the package that imports torch_xla; it is imported where a device of XLA is asked for.
Operations are recorded while Python runs, and a step is compiled when it is seen for the first time. Of several devices
each holds the weights and computes the same program on its images (SPMD); the compiler adds the sums over all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import torch
import torch_xla
from torch import Tensor
from torch_xla import backends, runtime
from torch_xla.core import xla_model
from torch_xla.distributed import spmd

from coltran.devices.train_device import TrainDevice
from coltran.errors import UserError


def device(name: str, kind: str | None = None) -> torch.device:
    """The device `xla`, the first one that the runtime has; its float32 products are exact to float32.

    Args:
        name: "xla", or "xla:0", which is the same.
        kind: what it has to be, such as "TPU"; None takes any.

    Raises:
        UserError: the runtime has no device, or one of another kind, or it is not the first that is asked for.
    """
    if name not in ("xla", "xla:0"):
        raise UserError(f"The device {name!r} cannot be used: --device=xla takes the first one, and a training all.")
    try:
        runtime.global_runtime_device_count()
        found = runtime.device_type()
    except RuntimeError as error:
        raise UserError(f"The runtime of torch_xla finds no device: {str(error).splitlines()[0]}.") from error
    if kind not in (None, found):
        raise UserError(f"There is no {kind} here: torch_xla finds a {found}.")
    # A TPU multiplies float32 in one pass of bfloat16 if it is not told otherwise.
    if found == "TPU" and backends.get_mat_mul_precision() != "highest":
        backends.set_mat_mul_precision("highest")
    return torch.device("xla:0")


def train_device(precision: str | None) -> TrainDevice:
    """How to train on all devices of this process; to be called before there is any tensor on them.

    Args:
        precision: see `coltran.devices.choose.train_device`.

    Raises:
        UserError: the devices belong to several processes.
    """
    if runtime.process_count() > 1:
        raise UserError("The devices belong to several processes: a training takes those of one host, in one process.")
    count, kind = runtime.global_runtime_device_count(), runtime.device_type()
    if count > 1 and not runtime.is_spmd():
        runtime.use_spmd()
    mesh = spmd.Mesh(np.arange(count), (count,), ("images",)) if runtime.is_spmd() else None
    precision = precision or ("bfloat16" if kind == "TPU" else "float32")

    def put(tensor: Tensor) -> Tensor:
        sharding = mesh and spmd.ShardingSpec(mesh, ("images", *[None] * (tensor.dim() - 1)))
        return xla_model.send_cpu_data_to_device([tensor], "xla:0", sharding)[0]

    def generators(seeds: Sequence[int]) -> list[torch.Generator]:
        torch_xla.manual_seed(seeds[0])
        return []

    def forward() -> contextlib.AbstractContextManager[object]:
        return torch.autocast("xla", dtype=torch.bfloat16, enabled=precision == "bfloat16")

    return TrainDevice(
        device=torch.device("xla:0"),
        count=count,
        put=put,
        generators=generators,
        forward=forward,
        step=torch_xla.step,
        eager=False,
        bfloat16=False,  # autocast does it
        text=f"{count} {kind} device{'s' * (count > 1)} of XLA, products in {precision}",
    )
