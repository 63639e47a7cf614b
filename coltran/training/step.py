# SPDX-License-Identifier: Apache-2.0
"""A training: what it consists of, how it starts, and one step of it."""

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
from coltran.devices import processes
from coltran.devices.choose import place
from coltran.devices.place import Place
from coltran.errors import UserError
from coltran.networks.dense import use_bfloat16
from coltran.networks.layers import Dropout, draw_dropout, plain, use_recomputation
from coltran.networks.losses import compute_losses
from coltran.training.data import Batch
from coltran.training.optimizer import MovingAverage, build_average, build_optimizer, set_rates

_WHOLE_NUMBERS = {  # least values
    "batch_size": 1, "max_train_steps": 1, "eval_batch_size": 1, "downsample_res": 1, "prepare_photographs": 0,
}  # fmt: skip
_OPTIONAL = ("eval_batch_size", "downsample_res", "prepare_photographs")


class Losses(nn.Module):
    """A network and what it is trained for as one module, which several processes can share."""

    def __init__(self, network: nn.Module, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.network, self.config = network, config

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of a batch: see `compute_losses`."""
        one_channel = "channel_index" in batch  # an upsampler without config.random_channel learns all three
        return compute_losses(self.network, batch, self.config, training=one_channel)


@dataclass
class Training:
    """All that a checkpoint keeps of a training, and where it computes."""

    config: dict[str, Any]
    network: nn.Module
    losses: nn.Module  # of that network, shared with the other processes
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None
    seed: int
    place: Place
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
        precision: of the matrix products, see `coltran.devices.choose.place`.
        accumulate: a batch goes through the network in so many parts, which takes as much less memory; the losses and
            gradients are those of the whole batch, to rounding.
        recompute: layers keep their inputs alone and are computed again for the gradients; the losses are the same.
        compiled: `torch.compile` makes programs of the losses and their gradients in the first step: one of each where
            there is no dropout.

    Raises:
        UserError: the configuration builds no network, no optimizer or no moving average; the device is not served
            with that precision; the batches cannot be shared evenly; or there is no compiler.
    """
    for key, least in _WHOLE_NUMBERS.items():
        value = config.get(key)
        if key in _OPTIONAL and key not in config:
            continue
        if not isinstance(value, int) or value < least:
            raise UserError(f"config.{key} must be a whole number from {least} on, not {value!r}.")
    where = place(device, precision)
    if config["batch_size"] % where.count:
        raise UserError(f"config.batch_size must be a multiple of {where.count}, the number of devices.")
    if config["batch_size"] % (where.count * accumulate):
        raise UserError(
            f"--accumulate={accumulate} does not share a batch of {config['batch_size']} photographs evenly."
        )
    if recompute and device.type == "xla":
        raise UserError("--recompute is not offered on XLA, whose compiler decides what is kept.")
    if compiled:
        _require_compiler(device)
    torch.manual_seed(seed)
    try:
        network = networks.build(networks.model_config(config)).to(device).train()
        optimizer = build_optimizer(config, network.parameters())
        average = build_average(config, network)
    except (ValueError, KeyError, TypeError, ArithmeticError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"The configuration cannot be trained: {reason}.") from error
    if where.bfloat16:
        use_bfloat16(network)
    if recompute:
        use_recomputation(network)
    whole = plain(config) | {"model": network.config}
    losses: nn.Module = Losses(network, whole)
    if compiled:
        losses = cast("nn.Module", torch.compile(losses))
    losses = processes.shared(losses)
    return Training(whole, network, losses, optimizer, average, seed, where, accumulate=accumulate)


def _require_compiler(device: torch.device) -> None:
    if device.type == "xla":
        raise UserError("--compile is not offered on XLA, which compiles every step by itself.")
    if device.type == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise UserError("--compile on a CPU needs a C++ compiler: g++, or what CXX names.")


def take_step(training: Training, batch: Batch) -> dict[str, Tensor]:
    """One step of gradient descent on one batch; the losses before it, as scalars on the network's device.

    Of several processes each brings its share of the batch, and all get the losses of the whole. The dropout of an
    image is drawn from (seed, step, the image's place in the whole batch) alone.
    """
    with training.place.step():
        generators = _generators(training, len(batch["rgb"]))
        batch = {name: training.place.put(tensor) for name, tensor in batch.items()}
        losses: dict[str, Tensor] = {}
        size = len(batch["rgb"]) // training.accumulate
        for first in range(0, len(batch["rgb"]), size):
            last = first + size == len(batch["rgb"])
            draw_dropout(training.network, generators[first : first + size])
            part = {name: tensor[first : first + size] for name, tensor in batch.items()}
            with contextlib.nullcontext() if last else processes.unshared(training.losses):
                for name, loss in _backward(training, part).items():
                    losses[name] = losses[name] + loss if name in losses else loss
        draw_dropout(training.network, ())
        set_rates(training.optimizer, training.config, training.step)
        training.optimizer.step()
        training.optimizer.zero_grad(set_to_none=True)
        if training.average is not None:
            training.average.update()
    training.step += 1
    return processes.mean(losses)


def _generators(training: Training, size: int) -> list[torch.Generator]:
    """What dropout is drawn from, for each image of this process's share of the batch; none where there is none."""
    if not any(isinstance(module, Dropout) and module.p for module in training.network.modules()):
        return []
    places = range(processes.rank() * size, (processes.rank() + 1) * size)
    mixed = (np.random.SeedSequence([training.seed, training.step, n]).generate_state(1, np.uint64) for n in places)
    return training.place.generators([int(seed[0]) for seed in mixed])


def _backward(training: Training, part: Batch) -> dict[str, Tensor]:
    """Adds the gradients of a part of the batch; returns its share of the losses, which are means over images."""
    with training.place.forward():
        losses = training.losses(part)
    (losses["total_loss"] / training.accumulate).backward()
    return {name: loss.detach() / training.accumulate for name, loss in losses.items()}
