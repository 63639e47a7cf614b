# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: a directory with the weights and everything needed to build their network again.

    model.safetensors     the weights to evaluate and sample with (the moving averages, when training)
    config.yaml           the whole configuration; its section `model` builds the network. Plain YAML, described by
                          config.schema.json beside this file, and by `format` and `format_version` in it
    training.yaml         step, seed and the like: only when written by the trainer or a conversion
    training.safetensors  `weights/NAME` as trained and `optimizer/NAME/SLOT`: only where a training can go on

A training's log directory holds `checkpoint-000100/`, `checkpoint-000200/`, ... and may stand for the newest
of them. Nothing is ever unpickled. A directory is written under a temporary name beside its own and then
renamed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from coltran import networks
from coltran.config import as_dict
from coltran.files import WRITING, clear_unfinished, runs, written_whole

FORMAT = "coltran"
VERSION = 1  # of config.yaml and what it stands for; files without one are read as of this version
MOST_VALUES = 10_000  # in a YAML file
_NUMBERED = re.compile(r"checkpoint-(\d{6,})")


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or written; its message is one sentence."""


def save(
    model: nn.Module,
    directory: str | Path,
    *,
    config: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    weights: Mapping[str, Tensor] | None = None,
    training: tuple[Mapping[str, Tensor], Mapping[str, Any]] | None = None,
) -> None:
    """Writes a checkpoint atomically, in place of the one that may be there.

    Args:
        model: a network with `.config`, its `model` section.
        directory: where to; missing parents are made.
        config: the whole configuration, kept beside the weights; its `model` section is replaced by
            `model.config`.
        dtype: of the floating-point weights in `model.safetensors`; float16 halves the file. As they are
            where None.
        weights: weights under the names of `model.state_dict()`, to be saved in place of the model's own.
        training: what a trainer needs to go on: tensors (`training.safetensors`, left out where there are none)
            and plain values (`training.yaml`).

    Raises:
        CheckpointError: `directory` holds something else, or a weight is too large for `dtype`.
        OSError: it cannot be written; nothing is left behind.
    """
    directory = Path(directory).absolute()
    replaceable = not directory.exists() or (directory / "model.safetensors").exists()
    if not replaceable and (directory.is_file() or any(directory.iterdir())):
        raise CheckpointError(f"{directory} exists and is not a checkpoint, so it is not overwritten.")
    tensors = dict(model.state_dict()) | dict(weights or {})
    if dtype is not None:
        tensors = {name: _cast(name, tensor, dtype) for name, tensor in tensors.items()}
    whole = as_dict(config or {}) | {"model": as_dict(model.config)}
    with _written_whole(directory) as temporary:
        save_config(whole, temporary / "config.yaml")
        name = str(whole["model"].get("name", "unknown"))
        _save_tensors(tensors, temporary / "model.safetensors", network=name, content="weights")
        if training is not None:
            save_yaml(training[1], temporary / "training.yaml")
            if training[0]:
                path = temporary / "training.safetensors"
                _save_tensors(training[0], path, network=name, content="weights in training and optimizer state")


def load(directory: str | Path) -> nn.Module:
    """The network of a checkpoint, with its weights in float32, in evaluation mode on the CPU.

    Args:
        directory: a checkpoint, or a log directory, of which the newest checkpoint is taken.

    Raises:
        CheckpointError: there is none, a file is missing or damaged, the configuration builds no network, or
            the tensors are not that network's; every missing, unexpected and misshapen one is named.
    """
    directory = find(directory)
    section, path = load_config(directory)["model"], directory / "model.safetensors"
    tensors = _load_tensors(path)
    if any(count > len(tensors) for count in networks.layer_counts(section)):
        raise CheckpointError(f"{path} does not fit its network: it has fewer tensors than the network has layers.")
    with torch.device("meta"):  # on paper first: a damaged size could take more memory than there is
        _check_fits(_build(section, directory), tensors, path)
    with torch.inference_mode(False):  # of inference tensors nobody could tell whether they have changed
        model = _build(section, directory)
        load_tensors(model, tensors, path)
    return model.eval()


def load_config(directory: str | Path) -> dict[str, Any]:
    """The whole configuration of a checkpoint or log directory, as plain values.

    Raises:
        CheckpointError: there is no checkpoint, or its `config.yaml` is no configuration, or of a version to come.
    """
    path = find(directory) / "config.yaml"
    config = load_yaml(path)
    kind, version = config.pop("format", FORMAT), config.pop("format_version", VERSION)
    if kind != FORMAT or not isinstance(version, int):
        raise CheckpointError(f"{path} is of the format {kind!r}, version {version!r}, which is none of coltran's.")
    if version > VERSION:
        raise CheckpointError(f"{path} has version {version}; this coltran reads versions up to {VERSION}: update it.")
    if not isinstance(config.get("model"), dict):
        raise CheckpointError(f"{path} has no section `model`, so it is no configuration.")
    return config


def load_training(directory: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What the trainer saved beside the weights: tensors and plain values, as given to `save`.

    Raises:
        CheckpointError: the checkpoint was not written by the trainer, or is damaged.
    """
    directory = find(directory)
    files = [directory / f"training.{suffix}" for suffix in ("yaml", "safetensors")]
    if not files[0].exists() or (not files[1].exists() and load_yaml(files[0]).get("weights_only")):
        raise CheckpointError(f"{directory} has weights only: a training cannot go on from it.")
    return _load_tensors(directory / "training.safetensors"), load_yaml(directory / "training.yaml")


def load_step(directory: str | Path) -> int | None:
    """The number of training steps behind a checkpoint; None where it was not saved.

    Raises:
        CheckpointError: there is no checkpoint, or its `training.yaml` is damaged.
    """
    path = find(directory) / "training.yaml"
    step = load_yaml(path).get("step") if path.exists() else None
    return step if isinstance(step, int) else None


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Copies `tensors` into the model's state, each exactly once, converted to the model's dtype.

    Raises:
        CheckpointError: names every missing, unexpected and misshapen tensor; the model is then unchanged.
    """
    _check_fits(model, tensors, source)
    model.load_state_dict(dict(tensors))


def _check_fits(model: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    state = model.state_dict()
    problems = [f"missing {name}" for name in state if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in state]
    problems += [
        f"misshapen {name} ({list(tensors[name].shape)}, not {list(tensor.shape)})"
        for name, tensor in state.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if problems:
        raise CheckpointError(f"{source} does not fit its network: {', '.join(problems)}.")


def numbered(logdir: str | Path) -> list[Path]:
    """The checkpoints `checkpoint-NNNNNN` in a log directory, oldest first."""
    logdir = Path(logdir)
    found = [(int(match[1]), path) for path in logdir.glob("*") if (match := _NUMBERED.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def find(directory: str | Path) -> Path:
    """The checkpoint that `directory` is, or the newest one in it.

    Raises:
        CheckpointError: there is none.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise CheckpointError(f"There is no checkpoint directory {directory}.")
    if (directory / "model.safetensors").exists():
        return directory
    if found := numbered(directory):
        return found[-1]
    raise CheckpointError(f"{directory} holds no checkpoint: no model.safetensors and no checkpoint-NNNNNN.")


def prune(logdir: str | Path, keep: int) -> None:
    """Deletes all but the `keep` newest checkpoints, each renamed first, and leftovers of killed writers."""
    for stale in Path(logdir).glob(f"{WRITING}checkpoint-*"):
        writer = re.fullmatch(r"checkpoint-\d+-(\d+)", stale.name.removeprefix(WRITING))
        if writer is None or int(writer[1]) == os.getpid() or not runs(int(writer[1])):
            shutil.rmtree(stale)
    clear_unfinished(Path(logdir))
    for path in numbered(logdir)[:-keep]:
        shutil.rmtree(path.rename(path.with_name(f"{WRITING}{path.name}")))


def save_config(config: Mapping[str, Any], path: Path) -> None:
    """Writes a whole configuration as YAML that says what it is, whole or not at all."""
    save_yaml({"format": FORMAT, "format_version": VERSION} | as_dict(config), path)


def save_yaml(values: Mapping[str, Any], path: Path) -> None:
    """Writes plain values as YAML, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(yaml.safe_dump(as_dict(values), sort_keys=False), encoding="utf-8")


def load_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML mapping.

    Raises:
        CheckpointError: the file is missing or holds no mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing.") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: it is not YAML.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is damaged: it holds no mapping.")
    if any(True for _ in islice(_inside(values), MOST_VALUES, None)):
        raise CheckpointError(f"{path} is damaged: it holds more than {MOST_VALUES} values.")
    return values


def _inside(values: Any) -> Iterator[Any]:
    """All values inside a mapping; aliased ones as often as they are referenced (YAML bombs)."""
    waiting = [values]
    while waiting:
        value = waiting.pop()
        yield value
        waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list) else []


@contextlib.contextmanager
def _written_whole(directory: Path) -> Iterator[Path]:
    """Yields a temporary directory that is renamed to `directory` on success and deleted on failure."""
    temporary = directory.with_name(f"{WRITING}{directory.name}-{os.getpid()}")
    replaced = directory.with_name(f"{WRITING}{directory.name}-replaced")
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that had this number and was killed
        temporary.mkdir(parents=True)
        yield temporary
        if directory.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            os.rename(directory, replaced)
        os.rename(temporary, directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    cast = tensor.to(dtype)
    if not torch.equal(cast.isfinite(), tensor.isfinite()):
        raise CheckpointError(f"{name} holds values too large for {dtype}.")
    return cast


def _save_tensors(tensors: Mapping[str, Tensor], path: Path, **metadata: str) -> None:
    plainly = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    about = json.dumps({"format_version": VERSION, **metadata})
    try:
        save_file(plainly, path, {FORMAT: about})  # one entry: safetensors writes several in a random order
    except SafetensorError as error:  # how safetensors reports a full disk
        raise OSError(f"{path} cannot be written: {error}") from error
    shutil.copymode(path.parent / "config.yaml", path)  # safetensors lets only the owner read


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing.") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from error


def _build(model_config: dict[str, Any], directory: Path) -> nn.Module:
    try:
        with torch.random.fork_rng(devices=[]):
            return networks.build(model_config)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise CheckpointError(f"{directory / 'config.yaml'} builds no network ({reason}).") from error
