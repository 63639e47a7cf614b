# SPDX-License-Identifier: Apache-2.0
"""Configurations, read once into frozen dataclasses that check every key and value.

A configuration is the ConfigDict of a `get_config()`, or any mapping such as a checkpoint's `config.yaml`. Keys and
defaults are the original program's, and a few new ones (docs/from-the-original.md). What the networks read of their
`model` section is in `coltran.networks.config`; here is the rest, and the reading itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from coltran.errors import UserError

T = TypeVar("T")


class ConfigError(UserError, ValueError):
    """A configuration that cannot be used; the message is one sentence that names the key."""


def at_least(least: int, default: Any = MISSING) -> Any:
    """A dataclass field that holds a whole number from `least` on."""
    return field(default=default, metadata={"least": least})


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What the losses read."""

    loss_factor: float = 1.0  # weight of the loss in the total
    encoder_loss_factor: float = 1.0  # weight of the colorizer's parallel head


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What becomes of a photograph before a network sees it."""

    resolution: tuple[int, int]  # height, width
    downsample: bool = False  # whether the colorizer and the colour upsampler see it at downsample_res
    downsample_res: int = at_least(1, 64)
    random_channel: bool = False  # an upsampler learns one channel of each photograph
    random_flip: bool = False
    random_resized_crop: float = 0.0  # least share of the square's area that a crop keeps; 0: no crop
    jpeg_draft: bool = False  # large JPEGs are decoded at a fraction of their size
    memory_map: bool = False  # photographs are decoded once, into a file
    random_levels: float = 0.0  # share of the guide's photographs that become faded or dark prints
    random_degradation: float = 0.0  # and whose gray gets blur, grain, JPEG: each by itself
    loss_share: float = 1.0  # of the pixels that the guide learns of a photograph
    source_limits: Mapping[str, float] = field(default_factory=dict)  # of an epoch, by how files' names begin
    eval_batch_size: int | None = at_least(1, None)


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """The section `sample`, which `coltran.sample` reads."""

    log_dir: str = ""  # of the records, within the log directory
    batch_size: int = at_least(1, 1)
    mode: str = "argmax"
    num_samples: int = at_least(1, 1)  # of a photograph
    num_outputs: int = at_least(1, 1)  # photographs
    skip_batches: int = at_least(0, 0)
    gen_file: str = "gen"
    gen_data_dir: str = ""  # records of the stage before


NO_SAMPLE_SECTION = SampleConfig(mode="sample", gen_file="gen0")  # what holds where there is no section `sample`


@dataclass(frozen=True, kw_only=True)
class EvalConfig(DataConfig, LossConfig):
    """What evaluation and sampling read."""

    model: Mapping[str, Any]  # read by the network itself
    dataset: str = ""  # "imagenet" or "custom"
    valid_examples: int = at_least(1, 10_000)  # of ImageNet's training images
    polyak_decay: float | None = 0.0  # of the moving average of the weights; 0: none
    save_checkpoint_secs: float = 900
    eval_num_examples: int | None = None
    eval_checkpoint_wait_secs: float | None = None
    sample: SampleConfig = NO_SAMPLE_SECTION

    @property
    def network(self) -> str:
        """`model.name`."""
        return str(self.model.get("name", ""))


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The section `optimizer`: Keras' names; what is None has the default of the type, and not every type has all."""

    type: str = "rmsprop"
    learning_rate: float | None = None
    rho: float | None = None
    epsilon: float | None = None
    weight_decay: float | None = None
    beta_1: float | None = None
    beta_2: float | None = None
    amsgrad: bool | None = None
    momentum: float | None = None
    nesterov: bool | None = None
    features_factor: float = 1.0  # of the learning rate, for a guide's pretrained features
    schedule: str = "constant"
    decay_steps: int | None = at_least(0, None)  # None or 0: max_train_steps
    warmup_steps: int = at_least(0, 0)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(EvalConfig):
    """A whole configuration, as a training reads it."""

    batch_size: int = at_least(1)
    max_train_steps: int = at_least(1)
    optimizer: OptimizerConfig = OptimizerConfig()
    prepare_photographs: int = at_least(0, 0)  # on which the initial frequencies are counted
    num_epochs: int = -1  # the original's; no effect
    downsample_method: str = "area"  # the original's; no effect


def as_dict(config: Any) -> dict[str, Any]:
    """A configuration as nested built-in dicts and lists, whatever mapping it came as."""

    def convert(value: Any) -> Any:
        if hasattr(value, "items"):
            return {key: convert(item) for key, item in value.items()}
        return [convert(item) for item in value] if isinstance(value, (list, tuple)) else value

    return convert(config)


def read(kind: type[T], values: Any, name: str = "config") -> T:
    """A section as the dataclass `kind`.

    Args:
        values: a ConfigDict, a mapping, or such a dataclass already, which is returned.
        name: of the section, for the error.

    Raises:
        ConfigError: an unknown key, a missing one, or a value of another type or out of its range.
    """
    if isinstance(values, kind):
        return values
    if not hasattr(values, "items"):
        raise ConfigError(f"{name} must be a section of keys and values, not {values!r}")
    known, hints = _fields(kind)
    for key in values.keys() - known.keys():
        near = difflib.get_close_matches(str(key), known, 1)
        raise ConfigError(f"{name} has an unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    needed = [key for key, one in known.items() if one.default is MISSING and one.default_factory is MISSING]
    if missing := [key for key in needed if key not in values]:
        raise ConfigError(f"{name} lacks {' and '.join(missing)}")
    return kind(**{key: _value(value, hints[key], known[key], f"{name}.{key}") for key, value in values.items()})


def part(kind: type[T], config: Any) -> T:
    """What one part of the program reads of a whole configuration, whatever else is in that.

    Raises:
        ConfigError: as of `read`, of this part's keys.
    """
    if isinstance(config, kind):
        return config
    return read(kind, {key: value for key, value in config.items() if key in _fields(kind)[0]})


def options() -> dict[str, Any]:
    """The keys that a configuration need not have, with their defaults."""
    found = {one.name: one.default for one in fields(TrainConfig) if one.default is not MISSING}
    found |= {key: vars(value) for key, value in found.items() if is_dataclass(value)}
    return {key: value for key, value in found.items() if value is not None}


def _fields(kind: Any) -> tuple[dict[str, Field[Any]], dict[str, Any]]:
    return {one.name: one for one in fields(kind)}, get_type_hints(kind)


_WANTED = {bool: "True or False", float: "a number", str: "text"}


def _value(value: Any, hint: Any, one: Field[Any], name: str) -> Any:
    """The value of a field, which is left as it is but for sections and pairs."""
    kinds = get_args(hint) if NoneType in get_args(hint) else (hint,)
    if value is None and NoneType in kinds:
        return None
    kind = kinds[0]
    if is_dataclass(kind):
        return read(kind, value or {}, name)  # type: ignore[arg-type]
    if get_origin(kind) is tuple:
        if isinstance(value, (list, tuple)) and len(value) == 2 and all(_is_whole(side, 1) for side in value):
            return tuple(value)
        raise ConfigError(f"{name} must be a height and a width, as in [256, 256], not {value!r}")
    if kind is int:
        least = one.metadata.get("least")
        if not _is_whole(value, least):
            raise ConfigError(
                f"{name} must be a whole number{f' from {least} on' * (least is not None)}, not {value!r}"
            )
    elif kind not in _WANTED:
        if not hasattr(value, "items"):
            raise ConfigError(f"{name} must be a section of keys and values, not {value!r}")
        return as_dict(value)
    elif not isinstance(value, (int, float) if kind is float else kind) or (kind is float and isinstance(value, bool)):
        raise ConfigError(f"{name} must be {_WANTED[kind]}, not {value!r}")
    return value


def _is_whole(value: Any, least: int | None) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and (least is None or value >= least)
