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

from coltran.networks.layers import plain


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
        self,
        params: Iterable[Any],
        learning_rate: float = 0.001,
        rho: float = 0.9,
        epsilon: float = 1e-7,
    ) -> None:
        if not learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, not {learning_rate}")
        if not 0 <= rho < 1:
            raise ValueError(f"rho must lie in [0, 1), not {rho}")
        if not epsilon > 0:
            raise ValueError(f"epsilon must be above 0, not {epsilon}")
        super().__init__(params, {"learning_rate": learning_rate, "rho": rho, "epsilon": epsilon})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As every optimizer's. The state is there from the start: a first step like all others compiles like them."""
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


def _adam(
    params: Iterable[Any],
    learning_rate: float = 0.001,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
    amsgrad: bool = False,
) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, lr=learning_rate, betas=(beta_1, beta_2), eps=epsilon, amsgrad=amsgrad)


def _sgd(
    params: Iterable[Any], learning_rate: float = 0.01, momentum: float = 0.0, nesterov: bool = False
) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=learning_rate, momentum=momentum, nesterov=nesterov)


_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "rmsprop": RMSprop,
    "adam": _adam,
    "sgd": _sgd,
}


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}
_OF_SCHEDULE = ("schedule", "decay_steps", "warmup_steps")


def rate_factor(config: Mapping[str, Any], step: int) -> float:
    """What the learning rate of the step after `step` steps is multiplied by, a function of the step alone.

    `config.optimizer.schedule` is "constant" (default), "linear" or "cosine": from 1 to 0 over `decay_steps` (default
    `config.max_train_steps`), the warm-up included. `warmup_steps` (default 0): a linear rise from 1 / warmup_steps.

    Raises:
        ValueError: an unknown schedule, or steps out of their range; one sentence.
    """
    options = config.get("optimizer") or {}
    name, warmup = options.get("schedule", "constant"), options.get("warmup_steps", 0)
    if name not in SCHEDULES:
        raise ValueError(f"config.optimizer.schedule must be one of {', '.join(SCHEDULES)}, not {name!r}")
    last = options.get("decay_steps", 0) or config["max_train_steps"]
    if warmup < 0 or (name != "constant" and last <= warmup):
        raise ValueError(f"config.optimizer: warmup_steps {warmup} must lie from 0 to below decay_steps {last}")
    if step < warmup:
        return (step + 1) / warmup
    return SCHEDULES[name](min(1.0, (step - warmup) / (last - warmup))) if name != "constant" else 1.0


def shortened(config: Mapping[str, Any], by: int) -> dict[str, Any]:
    """The same training in a `by`-th of its steps, rounded up, to see in less time what it comes to.

    `max_train_steps` and `optimizer.decay_steps` are divided by `by`, and `polyak_decay` is raised to that power: the
    moving average reaches over the same share of the training. The warm-up keeps its steps. What no training can have
    is left as it is, for `coltran.training.step.start` to refuse.
    """
    result: dict[str, Any] = plain(config)
    optimizer = result.get("optimizer")
    for section, key in ((result, "max_train_steps"), (optimizer, "decay_steps")):
        if isinstance(section, dict) and isinstance(section.get(key), int):
            section[key] = math.ceil(section[key] / by)
    decay = result.get("polyak_decay")
    if isinstance(decay, float) and 0 < decay < 1:
        result["polyak_decay"] = decay**by
    return result


def set_rates(optimizer: torch.optim.Optimizer, config: Mapping[str, Any], step: int) -> None:
    """Sets the learning rate of the step after `step` steps; nothing where the configuration has no schedule."""
    options = config.get("optimizer") or {}
    if not any(key in options for key in _OF_SCHEDULE):
        return
    factor = rate_factor(config, step)
    for group in optimizer.param_groups:
        key = "learning_rate" if "learning_rate" in group else "lr"
        group[key] = group.setdefault("first_rate", group[key]) * factor


def build_optimizer(config: Mapping[str, Any], params: Iterable[Any]) -> torch.optim.Optimizer:
    """The optimizer of `config.optimizer`: its `type`, and the remaining keys as options under Keras' names.

    | type    | options and their defaults                                                  |
    | ------- | --------------------------------------------------------------------------- |
    | rmsprop | learning_rate 0.001, rho 0.9, epsilon 1e-7                                  |
    | adam    | learning_rate 0.001, beta_1 0.9, beta_2 0.999, epsilon 1e-7, amsgrad False  |
    | sgd     | learning_rate 0.01, momentum 0, nesterov False                              |

    Beside them every type takes what `rate_factor` reads.

    Raises:
        ValueError: an unknown type, option or schedule, or a value out of range; one sentence.
    """
    options = dict(config.get("optimizer") or {"type": "rmsprop"})
    kind = options.pop("type", None)
    if [key for key in _OF_SCHEDULE if options.pop(key, None) is not None]:
        rate_factor(config, 0)
    if kind not in _OPTIMIZERS:
        raise ValueError(f"config.optimizer.type must be one of {', '.join(_OPTIMIZERS)}, not {kind!r}")
    try:
        return _OPTIMIZERS[kind](params, **options)
    except TypeError as error:
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise ValueError(f"config.optimizer: {kind} cannot be built with {given} ({error})") from error


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


def build_average(config: Mapping[str, Any], network: nn.Module) -> MovingAverage | None:
    """The moving average that `config.polyak_decay` asks for; None where it is missing or 0."""
    decay = config.get("polyak_decay") or 0
    return MovingAverage(network, decay) if decay else None
