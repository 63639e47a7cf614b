# SPDX-License-Identifier: Apache-2.0
"""What differs between devices in a training step: moving a batch, random generators, autocast."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from coltran.devices import processes


@dataclass(frozen=True)
class TrainDevice:
    """One device, or several that share every batch."""

    device: torch.device
    count: int  # devices that share a batch, of this process or of several
    put: Callable[[Tensor], Tensor]  # moves a batch's tensor to the device, sharded over several
    # A generator for each seed; an empty list where the device has only a global one (XLA), which is then seeded.
    generators: Callable[[Sequence[int]], list[torch.Generator]]
    forward: Callable[[], AbstractContextManager[object]]  # context of the forward pass: autocast
    step: Callable[[], AbstractContextManager[object]]  # context of a whole step
    eager: bool  # false where reading a result forces a graph to be compiled and run
    bfloat16: bool  # whether dense layers are to multiply in bfloat16 by themselves
    text: str  # what the log says of it; may be empty


def on_torch(device: torch.device, *, bfloat16: bool = False) -> TrainDevice:
    """A CPU or GPU in eager mode."""
    texts = [f"{processes.world_size()} processes"] if processes.world_size() > 1 else []
    texts += [f"{device}, dense layers in bfloat16"] if bfloat16 else []
    return TrainDevice(
        device=device,
        count=processes.world_size(),
        put=lambda tensor: tensor.to(device, non_blocking=True),
        generators=lambda seeds: [torch.Generator(device).manual_seed(seed) for seed in seeds],
        forward=contextlib.nullcontext,
        step=contextlib.nullcontext,
        eager=True,
        bfloat16=bfloat16,
        text=", ".join(texts),
    )
