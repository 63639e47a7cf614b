# SPDX-License-Identifier: Apache-2.0
"""The state of a training, its start, and one step."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from coltran import networks
from coltran.config import ConfigError, LossConfig, TrainConfig, as_dict, read
from coltran.devices import processes
from coltran.devices.choose import train_device
from coltran.devices.train_device import TrainDevice
from coltran.errors import UserError
from coltran.networks.dense import use_bfloat16
from coltran.networks.layers import Dropout, draw_dropout, use_recomputation
from coltran.networks.losses import compute_losses
from coltran.training.data import Batch
from coltran.training.optimizer import (
    MovingAverage,
    build_average,
    build_optimizer,
    parameter_groups,
    rate_factor,
    set_rates,
)


class Losses(nn.Module):
    """A network with its losses as one module, as DistributedDataParallel and torch.compile want it."""

    def __init__(self, network: nn.Module, config: LossConfig) -> None:
        super().__init__()
        self.network, self.config = network, config

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of a batch: see `compute_losses`."""
        one_channel = "channel_index" in batch  # an upsampler without config.random_channel learns all three
        return compute_losses(self.network, batch, self.config, training=one_channel)


@dataclass
class Training:
    """The state of a training, which a checkpoint holds, and its device."""

    config: TrainConfig
    saved_config: dict[str, Any]  # as it was given, with the network's own `model` section
    network: nn.Module
    losses: nn.Module  # of that network, perhaps compiled and in DistributedDataParallel
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None
    seed: int
    train_device: TrainDevice
    step: int = 0
    accumulate: int = 1  # parts of a batch that go through the network one after another


def start(
    config: Mapping[str, Any],
    seed: int,
    device: torch.device,
    precision: str | None = None,
    accumulate: int = 1,
    recompute: bool = False,
    compiled: bool = False,
) -> Training:
    """A training before its first step: the network with fresh weights drawn from `seed`.

    Args:
        precision: of the matrix products, see `coltran.devices.choose.train_device`.
        accumulate: a batch goes through the network in so many parts, which takes as much less memory; the losses and
            gradients are those of the whole batch, to rounding.
        recompute: layers keep their inputs alone and are computed again for the gradients; the losses are the same.
        compiled: `torch.compile` makes programs of the losses and their gradients in the first step: one of each where
            there is no dropout.

    Raises:
        UserError: the configuration builds no network, no optimizer or no moving average; the device is not served
            with that precision; the batches cannot be shared evenly; or there is no compiler.
    """
    try:
        settings = read(TrainConfig, config)
    except ConfigError as error:
        raise UserError(f"The configuration cannot be trained: {error}.") from error
    where = train_device(device, precision)
    if settings.batch_size % where.count:
        raise UserError(f"config.batch_size must be a multiple of {where.count}, the number of devices.")
    if settings.batch_size % (where.count * accumulate):
        raise UserError(
            f"--accumulate={accumulate} does not share a batch of {settings.batch_size} photographs evenly."
        )
    if recompute and device.type == "xla":
        raise UserError("--recompute is not offered on XLA, whose compiler decides what is kept.")
    if compiled:
        _require_compiler(device)
    torch.manual_seed(seed)
    try:
        rate_factor(settings.optimizer, settings.max_train_steps, 0)
        network = networks.build(networks.model_config(settings)).to(device).train()
        optimizer = build_optimizer(settings.optimizer, parameter_groups(settings.optimizer, network))
        average = build_average(settings.polyak_decay, network)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise UserError(f"The configuration cannot be trained: {error}.") from error
    if where.bfloat16:
        use_bfloat16(network)
    if recompute:
        use_recomputation(network)
    losses: nn.Module = Losses(network, settings)
    if compiled:
        losses = cast("nn.Module", torch.compile(losses))
    losses = processes.data_parallel(losses)
    whole = as_dict(config) | {"model": network.config}
    return Training(settings, whole, network, losses, optimizer, average, seed, where, accumulate=accumulate)


def _require_compiler(device: torch.device) -> None:
    if device.type == "xla":
        raise UserError("--compile is not offered on XLA, which compiles every step by itself.")
    if device.type == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise UserError("--compile on a CPU needs a C++ compiler: g++, or what CXX names.")


def take_step(training: Training, batch: Batch) -> dict[str, Tensor]:
    """One optimizer step on one batch; returns the losses before it, as scalars on the network's device.

    Of several processes each brings its share of the batch, and all get the losses of the whole. The dropout of an
    image is drawn from (seed, step, the image's place in the whole batch) alone.
    """
    with training.train_device.step():
        generators = _generators(training, len(batch["rgb"]))
        batch = {name: training.train_device.put(tensor) for name, tensor in batch.items()}
        losses: dict[str, Tensor] = {}
        size = len(batch["rgb"]) // training.accumulate
        for first in range(0, len(batch["rgb"]), size):
            last = first + size == len(batch["rgb"])
            draw_dropout(training.network, generators[first : first + size])
            part = {name: tensor[first : first + size] for name, tensor in batch.items()}
            with contextlib.nullcontext() if last else processes.no_sync(training.losses):
                for name, loss in _backward(training, part).items():
                    losses[name] = losses[name] + loss if name in losses else loss
        draw_dropout(training.network, ())
        set_rates(training.optimizer, training.config.optimizer, training.config.max_train_steps, training.step)
        training.optimizer.step()
        training.optimizer.zero_grad(set_to_none=True)
        if training.average is not None:
            training.average.update()
    training.step += 1
    return processes.all_reduce_mean(losses)


def _generators(training: Training, size: int) -> list[torch.Generator]:
    """A generator of dropout for each image of this rank's share of the batch; none where nothing is dropped."""
    if not any(isinstance(module, Dropout) and module.p for module in training.network.modules()):
        return []
    places = range(processes.rank() * size, (processes.rank() + 1) * size)
    mixed = (np.random.SeedSequence([training.seed, training.step, n]).generate_state(1, np.uint64) for n in places)
    return training.train_device.generators([int(seed[0]) for seed in mixed])


def _backward(training: Training, part: Batch) -> dict[str, Tensor]:
    """Forward and backward of one micro-batch; returns its share of the losses, which are means over images."""
    with training.train_device.forward():
        losses = training.losses(part)
    (losses["total_loss"] / training.accumulate).backward()
    return {name: loss.detach() / training.accumulate for name, loss in losses.items()}
