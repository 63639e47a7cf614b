# SPDX-License-Identifier: Apache-2.0
"""Where a training computes, and what it does in a way of its own there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from coltran.devices import processes


@dataclass(frozen=True)
class Place:
    """A device, or several that work as one."""

    device: torch.device
    count: int  # devices that share a batch, of this process or of several
    put: Callable[[Tensor], Tensor]  # a batch's tensor to the device: its share of the images to each of several
    # One for each seed of 0 .. 2**64 - 1; none where the device has but one, which is then seeded.
    generators: Callable[[Sequence[int]], list[torch.Generator]]
    forward: Callable[[], AbstractContextManager[object]]  # holds around the losses: the precision of products
    step: Callable[[], AbstractContextManager[object]]  # holds around a whole step of training
    eager: bool  # whether looking at a result costs no more than waiting for it
    bfloat16: bool  # whether dense layers are to multiply in bfloat16 by themselves
    text: str  # for the person who watches; empty where there is nothing to say


def on_torch(device: torch.device, *, bfloat16: bool = False) -> Place:
    """A CPU or a GPU: torch computes what it is told, as it is told."""
    texts = [f"{processes.count()} processes"] if processes.count() > 1 else []
    texts += [f"{device}, dense layers in bfloat16"] if bfloat16 else []
    return Place(
        device=device,
        count=processes.count(),
        put=lambda tensor: tensor.to(device, non_blocking=True),
        generators=lambda seeds: [torch.Generator(device).manual_seed(seed) for seed in seeds],
        forward=contextlib.nullcontext,
        step=contextlib.nullcontext,
        eager=True,
        bfloat16=bfloat16,
        text=", ".join(texts),
    )
