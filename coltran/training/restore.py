# SPDX-License-Identifier: Apache-2.0
"""A configuration's network with the weights of a log directory, of this program or the original."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from coltran import checkpoint, networks
from coltran.checkpoint import CheckpointError
from coltran.config import EvalConfig, part
from coltran.errors import UserError
from coltran.networks.config import DecoderConfig
from coltran.original import bundle
from coltran.original.load import load_tf_network
from coltran.training.net2net import halve_widths, net2wider

_DECODER_DEFAULTS = {one.name: one.default for one in fields(DecoderConfig) if one.default not in (MISSING, None)}
# Keys of a `model` section that change nothing in a trained network.
_WITHOUT_EFFECT = ("dropout", "resolution", "cond_ln_init", "cond_att_init")


class Restored(NamedTuple):
    """A trained network."""

    network: nn.Module  # in evaluation mode
    step: int  # training steps behind it; 0 where that was not saved
    source: Path


def newest(logdir: str | Path) -> Path | None:
    """The newest checkpoint in a log directory (or the checkpoint that it is); ours before the original's."""
    directory = Path(logdir)
    if (directory / "model.safetensors").exists():
        return directory
    if found := checkpoint.numbered(directory):
        return found[-1]
    return bundle.latest(directory)


def restore(config: Mapping[str, Any], logdir: str | Path, device: torch.device, *, widen: bool = False) -> Restored:
    """The network of a whole configuration with the newest weights in `logdir`.

    Of a checkpoint of the original, the moving averages where `config.polyak_decay` is set, as it does itself. With
    `widen` the network there may have half the width throughout, and is made wider (`net2net.net2wider`).

    Raises:
        CheckpointError: there is none, or it is damaged, or (the original's) a tensor does not fit.
        UserError: the checkpoint is of another network than the configuration's, or the configuration of none.
    """
    path = newest(logdir)
    if path is None:
        raise CheckpointError(f"{logdir} holds no checkpoint, neither of this program nor of the original.")
    section = networks.model_config(config)
    if not path.is_dir():
        network, _, step = load_tf_network(path, config, ema=bool(part(EvalConfig, config).polyak_decay))
        return Restored(network.to(device), step or 0, path)
    network = checkpoint.load(path)
    there: dict[str, Any] = network.config  # type: ignore[assignment]
    if widen and not any(_differences(there, halve_widths(section))):
        try:
            network = net2wider(network, section)
        except NotImplementedError as error:
            raise UserError(f"{path} cannot be made wider: {error}.") from error
    elif differences := list(_differences(there, section)):
        raise UserError(f"{path} is of another network than the configuration: {', '.join(differences)}.")
    return Restored(network.to(device), checkpoint.load_step(path) or 0, path)


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "model") -> Iterator[str]:
    """What differs between two sections, in keys that matter and that both have, or that have a default."""
    defaults = _DECODER_DEFAULTS if prefix == "model.decoder" else {}
    there, here = defaults | dict(there), defaults | dict(here)
    for key in sorted(there.keys() & here.keys()):
        if isinstance(there[key], Mapping) and isinstance(here[key], Mapping):
            yield from _differences(there[key], here[key], f"{prefix}.{key}")
        elif there[key] != here[key] and (key not in _WITHOUT_EFFECT or (prefix, key) == ("model", "resolution")):
            yield f"{prefix}.{key} ({there[key]!r} there, {here[key]!r} here)"
