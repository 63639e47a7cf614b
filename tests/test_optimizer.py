# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch import nn

from coltran.config import OptimizerConfig, read
from coltran.training.optimizer import (
    MovingAverage,
    RMSprop,
    build_average,
    build_optimizer,
    rate_factor,
    set_rates,
    shortened,
)


def _section(values: dict) -> OptimizerConfig:
    return read(OptimizerConfig, values, "config.optimizer")


def _parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def test_rmsprop_follows_the_formula_of_keras():
    weight = _parameter(1.0, -2.0, 3.0)
    optimizer = RMSprop([weight], learning_rate=0.01, rho=0.8, epsilon=1e-5)
    expected, mean_square = weight.detach().clone(), torch.zeros(3, dtype=torch.float64)
    for step in range(4):
        gradient = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64) * (step + 1)
        weight.grad = gradient
        optimizer.step()
        mean_square = 0.8 * mean_square + 0.2 * gradient**2
        expected = expected - 0.01 * gradient / (mean_square + 1e-5).sqrt()
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-14, atol=0)


def test_rmsprop_leaves_a_parameter_without_gradient_alone():
    trained, idle = _parameter(1.0), _parameter(1.0)
    trained.grad = torch.ones_like(trained)
    RMSprop([trained, idle]).step()
    assert idle.item() == 1.0


@pytest.mark.parametrize(
    "options", [{"learning_rate": 0.0}, {"learning_rate": -1.0}, {"rho": 1.0}, {"epsilon": 0.0}], ids=str
)
def test_rmsprop_refuses_values_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        RMSprop([_parameter(1.0)], **options)


def test_the_configuration_chooses_the_optimizer_and_its_options():
    kinds = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD, "rmsprop": RMSprop}
    for kind, its in kinds.items():
        assert isinstance(build_optimizer(_section({"type": kind}), [_parameter(1.0)]), its)
    assert isinstance(build_optimizer(_section({}), [_parameter(1.0)]), RMSprop)
    config = _section({"type": "rmsprop", "learning_rate": 0.5, "rho": 0.25})
    group = build_optimizer(config, [_parameter(1.0)]).param_groups[0]
    assert (group["learning_rate"], group["rho"]) == (0.5, 0.25)


def test_adam_takes_the_defaults_of_keras():
    group = build_optimizer(_section({"type": "adam"}), [_parameter(1.0)]).param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (0.001, (0.9, 0.999), 1e-7)


def test_an_unknown_type_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"one of rmsprop, adam, adamw, sgd, not 'lion'"):
        build_optimizer(_section({"type": "lion"}), [_parameter(1.0)])


@pytest.mark.parametrize(("kind", "key"), [("rmsprop", "momentum"), ("adam", "rho"), ("sgd", "beta_1")])
def test_an_option_of_another_type_is_named(kind, key):
    with pytest.raises(ValueError, match=f"{kind} has no {key}, but learning_rate"):
        build_optimizer(_section({"type": kind, key: 0.5}), [_parameter(1.0)])


def test_the_average_starts_at_the_weights_and_follows_them():
    network = nn.Linear(2, 1, bias=False)
    first = network.weight.detach().clone()
    average = MovingAverage(network, 0.9)
    expected = first
    for step in range(3):
        nn.init.constant_(network.weight, float(step))
        average.update()
        expected = expected - 0.1 * (expected - step)
    torch.testing.assert_close(average.averages["weight"], expected, rtol=1e-6, atol=0)


def test_only_trainable_weights_are_averaged():
    network = nn.Linear(2, 1)
    network.bias.requires_grad_(False)
    assert set(MovingAverage(network, 0.9).averages) == {"weight"}


@pytest.mark.parametrize("decay", [None, 0, 0.0])
def test_no_decay_means_no_average(decay):
    assert build_average(decay, nn.Linear(1, 1)) is None


@pytest.mark.parametrize("decay", [1.0, -0.5, 2.0])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match="polyak_decay"):
        build_average(decay, nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("options", "steps", "factors"),
    [
        ({}, [0, 50, 1000], [1, 1, 1]),
        ({"schedule": "linear"}, [0, 25, 100, 200], [1, 0.75, 0, 0]),
        ({"schedule": "cosine", "decay_steps": 20}, [0, 10, 20], [1, 0.5, 0]),
        ({"warmup_steps": 4}, [0, 1, 3, 4, 100], [0.25, 0.5, 1, 1, 1]),
        ({"schedule": "linear", "warmup_steps": 4}, [4, 52, 100], [1, 0.5, 0]),
    ],
)
def test_the_rate_rises_while_it_warms_up_and_falls_by_its_schedule(options, steps, factors):
    assert [rate_factor(_section(options), 100, step) for step in steps] == pytest.approx(factors)


@pytest.mark.parametrize("kind", ["rmsprop", "adam", "sgd"])
def test_the_rate_of_a_step_depends_on_its_number_alone(kind):
    config = _section({"type": kind, "learning_rate": 0.5, "schedule": "linear"})
    optimizer = build_optimizer(config, [_parameter(1.0)])
    for step in (7, 2, 4):
        set_rates(optimizer, config, 10, step)
    (group,) = optimizer.param_groups
    assert group["learning_rate" if kind == "rmsprop" else "lr"] == pytest.approx(0.5 * 0.6)


@pytest.mark.parametrize("options", [{"schedule": "steps"}, {"schedule": "cosine", "warmup_steps": 10}])
def test_a_schedule_that_cannot_be_is_refused_at_once(options):
    with pytest.raises(ValueError, match=r"config\.optimizer"):
        rate_factor(_section(options), 10, 0)


def test_a_shortened_training_has_a_share_of_the_steps_and_averages_over_the_same_share():
    whole = {"max_train_steps": 101, "polyak_decay": 0.99, "optimizer": {"warmup_steps": 5, "decay_steps": 80}}
    short = shortened(whole, 10)
    assert short["max_train_steps"] == 11
    assert short["optimizer"] == {"warmup_steps": 5, "decay_steps": 8}
    assert short["polyak_decay"] == pytest.approx(0.99**10)
    assert shortened(whole, 1) == whole


@pytest.mark.parametrize(
    "wrong", [{"max_train_steps": "many"}, {}, {"polyak_decay": -0.5}, {"polyak_decay": "0.9"}, {"optimizer": "adam"}]
)
def test_what_no_training_can_have_is_not_shortened(wrong):
    assert shortened(wrong, 2) == wrong
