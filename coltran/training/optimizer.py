# SPDX-License-Identifier: Apache-2.0
"""The optimizers that a configuration can name, and the moving average of the weights.

    RMSprop (Keras)   v <- rho v + (1 - rho) g^2        w <- w - lr g / sqrt(v + epsilon)
    schedule          lr(s) = learning_rate * f(s), see `rate_factor`
    moving average    a <- a - (1 - decay) (a - w)      starting at the initial weights

Keras puts epsilon inside the root; `torch.optim.RMSprop` puts it outside, and so did Keras before TensorFlow 2.11. The
two part ways wherever a gradient is small, which in the first steps is most of the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from coltran.config import ConfigError, OptimizerConfig, as_dict
from coltran.networks.guide import Guide


class RMSprop(torch.optim.Optimizer):
    """RMSprop as Keras defines it, without momentum.

    Args:
        params: parameters or parameter groups.
        learning_rate: step size, above 0.
        rho: decay of the mean square of the gradient, in [0, 1).
        epsilon: added to the mean square, inside the root.

    State of a parameter: `mean_square`, of the parameter's shape, starting at zero. A parameter without a
    gradient is left alone.
    """

    def __init__(
        self, params: Iterable[Any], learning_rate: float = 0.001, rho: float = 0.9, epsilon: float = 1e-7
    ) -> None:
        if not learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, not {learning_rate}")
        if not 0 <= rho < 1:
            raise ValueError(f"rho must lie in [0, 1), not {rho}")
        if not epsilon > 0:
            raise ValueError(f"epsilon must be above 0, not {epsilon}")
        super().__init__(params, {"learning_rate": learning_rate, "rho": rho, "epsilon": epsilon})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Creates the state at once, so that torch.compile and XLA see the first step as they see all others."""
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            self.state[p]["mean_square"] = torch.zeros_like(p)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step along the gradients that the parameters hold; returns the closure's result."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._step(params, group["learning_rate"], group["rho"], group["epsilon"])
        return loss

    def _step(self, params: list[Tensor], learning_rate: float, rho: float, epsilon: float) -> None:
        gradients = [p.grad for p in params if p.grad is not None]
        mean_squares = [self.state[p]["mean_square"] for p in params]
        torch._foreach_mul_(mean_squares, rho)
        torch._foreach_addcmul_(mean_squares, gradients, gradients, value=1 - rho)
        roots = torch._foreach_add(mean_squares, epsilon)
        torch._foreach_sqrt_(roots)
        torch._foreach_addcdiv_(params, gradients, roots, value=-learning_rate)


_ADAM = {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}
_OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {  # options, and Keras' defaults
    "rmsprop": (RMSprop, {"learning_rate": 0.001, "rho": 0.9, "epsilon": 1e-7}),
    "adam": (torch.optim.Adam, _ADAM | {"amsgrad": False}),
    "adamw": (torch.optim.AdamW, _ADAM | {"weight_decay": 0.004}),
    "sgd": (torch.optim.SGD, {"learning_rate": 0.01, "momentum": 0.0, "nesterov": False}),
}
_TORCH_NAMES = {"learning_rate": "lr", "epsilon": "eps"}

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}
_NO_OPTIONS = ("type", "schedule", "decay_steps", "warmup_steps", "features_factor")  # of the optimizer itself


def rate_factor(config: OptimizerConfig, last_step: int, step: int) -> float:
    """The factor of the learning rate in the step after `step` steps; a function of that number alone.

    `schedule` is "constant" (default), "linear" or "cosine": from 1 to 0 over `decay_steps` (default: the training's
    `last_step`), the warm-up included. `warmup_steps` (default 0): a linear rise from 1 / warmup_steps.

    Raises:
        ConfigError: an unknown schedule, or steps out of their range.
    """
    name, warmup, last = config.schedule, config.warmup_steps, config.decay_steps or last_step
    if name not in SCHEDULES:
        raise ConfigError(f"config.optimizer.schedule must be one of {', '.join(SCHEDULES)}, not {name!r}")
    if name != "constant" and last <= warmup:
        raise ConfigError(f"config.optimizer: warmup_steps {warmup} must lie from 0 to below decay_steps {last}")
    if step < warmup:
        return (step + 1) / warmup
    return SCHEDULES[name](min(1.0, (step - warmup) / (last - warmup))) if name != "constant" else 1.0


def shortened(config: Mapping[str, Any], by: int) -> dict[str, Any]:
    """A configuration with a `by`-th of the steps, rounded up, for a quick preview of a training.

    `max_train_steps` and `optimizer.decay_steps` are divided by `by`, and `polyak_decay` is raised to that power: the
    moving average reaches over the same share of the training. The warm-up keeps its steps. What no training can have
    is left as it is, for `coltran.training.step.start` to refuse.
    """
    result: dict[str, Any] = as_dict(config)
    optimizer = result.get("optimizer")
    for section, key in ((result, "max_train_steps"), (optimizer, "decay_steps")):
        if isinstance(section, dict) and isinstance(section.get(key), int):
            section[key] = math.ceil(section[key] / by)
    decay = result.get("polyak_decay")
    if isinstance(decay, float) and 0 < decay < 1:
        result["polyak_decay"] = decay**by
    return result


def set_rates(optimizer: torch.optim.Optimizer, config: OptimizerConfig, last_step: int, step: int) -> None:
    """Sets the learning rate of the step after `step` of `last_step` steps; nothing where that does not change."""
    if config.schedule == "constant" and not config.warmup_steps:
        return
    factor = rate_factor(config, last_step, step)
    for group in optimizer.param_groups:
        key = _rate_key(group)
        group[key] = group.setdefault("first_rate", group[key]) * factor


def build_optimizer(config: OptimizerConfig, params: Iterable[Any]) -> torch.optim.Optimizer:
    """The optimizer of a section `optimizer`, with options under Keras' names: see `_OPTIMIZERS`.

    Beside them every type takes what `rate_factor` reads, and what `parameter_groups` does.

    Raises:
        ValueError: an unknown type, an option that the type does not have, or a value out of range; one sentence.
    """
    if config.type not in _OPTIMIZERS:
        raise ConfigError(f"config.optimizer.type must be one of {', '.join(_OPTIMIZERS)}, not {config.type!r}")
    kind, defaults = _OPTIMIZERS[config.type]
    given = {key: value for key, value in vars(config).items() if key not in _NO_OPTIONS and value is not None}
    if foreign := [key for key in given if key not in defaults]:
        raise ConfigError(f"config.optimizer: {config.type} has no {foreign[0]}, but {', '.join(defaults)}")
    options = defaults | given
    if kind is not RMSprop:
        options = {_TORCH_NAMES.get(key, key): value for key, value in options.items()}
        if "beta_1" in options:
            options["betas"] = options.pop("beta_1"), options.pop("beta_2")
    optimizer = kind(params, **options)
    for group in optimizer.param_groups:
        group[_rate_key(group)] *= group.get("factor", 1)
    return optimizer


def parameter_groups(config: OptimizerConfig, network: nn.Module) -> list[Any]:
    """The parameters of a network for `build_optimizer`: all in one group, or those of a guide's features in their own.

    The learning rate of that is `features_factor` times the other's: what was learned
    elsewhere is to be adapted, not forgotten.
    """
    if config.features_factor == 1 or not isinstance(network, Guide):
        return list(network.parameters())
    own = {id(p) for p in network.features.parameters()}
    trained = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if id(p) not in own]},
        {"params": [p for p in trained if id(p) in own], "factor": config.features_factor},
    ]


def _rate_key(group: Mapping[str, Any]) -> str:
    return "learning_rate" if "learning_rate" in group else "lr"


class MovingAverage:
    """Exponential moving average of a network's trainable weights, kept in float32 beside them.

    Args:
        network: its parameters that require a gradient are averaged, starting at their present values.
        decay: how much of the average a step keeps, in (0, 1); 0.999 in the paper.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"config.polyak_decay must lie in (0, 1), or be 0 for none, not {decay}")
        self.decay = decay
        self._weights = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.averages = {name: p.detach().clone() for name, p in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Moves the averages one step towards the network's present weights."""
        torch._foreach_lerp_(list(self.averages.values()), list(self._weights.values()), 1 - self.decay)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Sets the averages from `tensors`, which holds one of the same shape under each parameter's name."""
        for name, average in self.averages.items():
            average.copy_(tensors[name])


def build_average(decay: float | None, network: nn.Module) -> MovingAverage | None:
    """The moving average that `polyak_decay` asks for; none where that is None or 0."""
    return MovingAverage(network, decay) if decay else None
