# SPDX-License-Identifier: Apache-2.0
"""Net2WiderNet (Chen, Goodfellow and Shlens, 2016): a network of twice the width that computes the same.

Every channel becomes two neighbours that hold the same value, so norms see the same mean and variance; a dense layer
halves the weights of its inputs, so its sums stay. Attention divides by the root of the channels of a head, which are
twice as many, so queries are smaller by the root of 2. The two of a pair would learn the same for ever; noise of
opposite sign sets them apart, of which the sum of a pair shows nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from coltran import networks
from coltran.networks.layers import AxialAttention
from coltran_kernels import unpack_conditioning

NOISE = 0.3  # of a tensor's own standard deviation

_WIDTHS = ("hidden_size", "ff_size")


def halve_widths(section: Mapping[str, Any]) -> dict[str, Any]:
    """A `model` section with all widths halved; of odd ones to a fraction, which no network has."""
    halved = {key: halve_widths(value) if isinstance(value, Mapping) else value for key, value in section.items()}
    return halved | {key: section[key] / 2 for key in _WIDTHS if key in section}


def net2wider(network: nn.Module, section: Mapping[str, Any], noise: float = NOISE) -> nn.Module:
    """The network of `section`, whose widths are twice those of `network`, with the weights of that.

    Raises:
        NotImplementedError: queries are scaled by an activation that does not commute with a factor.
    """
    wide = networks.build(section)
    modules, old = dict(network.named_modules()), {name: t.clone() for name, t in network.state_dict().items()}
    for name, module in modules.items():
        if isinstance(module, AxialAttention):
            _shrink_queries(name, module, old)
    new, generator = wide.state_dict(), torch.Generator().manual_seed(0)
    for name, tensor in old.items():
        doubled = [axis for axis in range(tensor.dim()) if new[name].shape[axis] == 2 * tensor.shape[axis]]
        owner, _, kind = name.rpartition(".")
        if isinstance(modules[owner], nn.Linear) and kind == "weight" and 1 in doubled:
            tensor = tensor / 2
        spread = noise * tensor.std() if doubled and tensor.dim() == 2 else torch.zeros(())
        for axis in doubled:
            tensor = tensor.repeat_interleave(2, axis)
        for axes in _subsets(doubled):
            tensor = tensor + spread * _opposite(tensor, axes, generator)
        new[name] = tensor
    wide.load_state_dict(new)
    return wide.eval()


def _shrink_queries(name: str, attention: AxialAttention, state: dict[str, Tensor]) -> None:
    """Scales the queries by sqrt(1/2), in the weights that produce them, in place."""
    if "q" in attention.conditioned and attention.cond_scale:
        if attention.act(torch.tensor(-1.0)) not in (-1, 0) or attention.act(torch.tensor(2.0)) != 2:
            raise NotImplementedError("cond_att_act must be identity or relu in a network that is to become wider")
    else:
        state[f"{name}.qkv.weight"][: attention.qkv.in_features] *= 0.5**0.5
    if "q" in attention.conditioned:
        weight = state[f"{name}.condition.weight"]
        numbers = torch.arange(weight.shape[0])
        outputs = unpack_conditioning(numbers, attention.heads, attention.conditioned, attention.cond_scale)
        for part, of_part in outputs.items():
            if part.startswith("q"):
                weight[of_part.flatten()] *= 0.5**0.5


def _subsets(axes: list[int]) -> Iterator[tuple[int, ...]]:
    """All non-empty subsets."""
    return itertools.chain.from_iterable(itertools.combinations(axes, n + 1) for n in range(len(axes)))


def _opposite(like: Tensor, axes: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal noise of a tensor's shape, with opposite signs for the two channels of a pair along `axes`."""
    shape = [size // 2 if axis in axes else size for axis, size in enumerate(like.shape)]
    noise = torch.randn(shape, generator=generator)
    for axis in axes:
        noise = torch.stack((noise, -noise), axis + 1).flatten(axis, axis + 1)
    return noise
