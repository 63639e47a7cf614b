# SPDX-License-Identifier: Apache-2.0
"""Saving a training and resuming it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from coltran import checkpoint
from coltran.checkpoint import CheckpointError
from coltran.errors import UserError
from coltran.training.step import Training


def save(training: Training, logdir: Path, keep: int) -> Path:
    """Writes `checkpoint-NNNNNN` of the present step, then deletes all but the `keep` newest.

    Raises:
        UserError: a weight is not a finite number: the checkpoints that there are remain.
        OSError: it cannot be written: the checkpoints that there are remain.
    """
    tensors = {f"weights/{name}": tensor.cpu() for name, tensor in training.network.state_dict().items()}
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise UserError(
            f"After step {training.step} some weights are not finite numbers, so they are not saved; "
            "a smaller config.optimizer.learning_rate may help."
        )
    for name, parameter in training.network.named_parameters():
        for slot, value in training.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{name}/{slot}"] = value
    state = {"step": training.step, "seed": training.seed, "torch": str(torch.__version__)}
    path = logdir / f"checkpoint-{training.step:06d}"
    checkpoint.save(
        training.network,
        path,
        config=training.saved_config,
        weights=training.average.averages if training.average else None,
        training=(tensors, state),
    )
    checkpoint.prune(logdir, keep)
    return path


def resume(training: Training, path: Path) -> None:
    """Brings a fresh training to the state that was saved in `path`.

    Raises:
        UserError: it was saved by a training of another model, optimizer or seed; the sentence names the
            differences.
        CheckpointError: it is damaged or incomplete.
    """
    saved_config = checkpoint.load_config(path)
    tensors, state = checkpoint.load_training(path)
    there = _identity(saved_config, state.get("seed"))
    here = _identity(training.saved_config, training.seed)
    differences = [
        f"{key} ({there.get(key)!r} there, {here.get(key)!r} here)"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    ]
    if differences:
        raise UserError(f"{path} belongs to another training, it differs in {', '.join(differences)}.")
    source = path / "training.safetensors"
    weights = {name.removeprefix("weights/"): t for name, t in tensors.items() if name.startswith("weights/")}
    checkpoint.load_tensors(training.network, weights, source)
    if training.average is not None:
        training.average.load(dict(checkpoint.load(path).named_parameters()))
    parameters = dict(training.network.named_parameters())
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            name, _, slot = key.removeprefix("optimizer/").rpartition("/")
            if name not in parameters or value.shape not in ((), parameters[name].shape):
                raise CheckpointError(f"{source} does not fit its network: {key}.")
            # torch keeps Adam's step counts on the CPU
            target = parameters[name].device if value.shape else torch.device("cpu")
            training.optimizer.state[parameters[name]][slot] = value.to(target, copy=True)
    slots = {key for key in tensors if key.startswith("optimizer/")}
    fresh = {
        f"optimizer/{name}/{slot}" for name, p in parameters.items() for slot in training.optimizer.state.get(p, {})
    }
    if missing := sorted(fresh - slots):
        raise CheckpointError(f"{source} is incomplete: it lacks {missing[0]}.")
    if not isinstance(state.get("step"), int):
        raise CheckpointError(f"{path / 'training.yaml'} names no step.")
    training.step = state["step"]


def _identity(config: Mapping[str, Any], seed: Any) -> dict[str, Any]:
    """What a resumed training must share with the saved one, flattened: network, optimizer type and seed."""

    def flatten(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, Mapping):
            for key, item in value.items():
                yield from flatten(f"{prefix}.{key}", item)
        else:
            yield prefix, value

    optimizer = config.get("optimizer") or {}
    kept = {"optimizer.type": optimizer.get("type"), "optimizer.amsgrad": bool(optimizer.get("amsgrad"))}
    return dict(flatten("model", config["model"])) | kept | {"seed": seed}
