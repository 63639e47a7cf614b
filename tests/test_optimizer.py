# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch import nn

from coltran.training.optimizer import (
    MovingAverage,
    RMSprop,
    build_average,
    build_optimizer,
    rate_factor,
    set_rates,
    shortened,
)


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


def test_rmsprop_adds_epsilon_inside_the_root():
    weight = _parameter(0.0)
    weight.grad = torch.full_like(weight, 1e-8)  # its square vanishes beside epsilon, so the root is 10 ** -3.5
    RMSprop([weight], learning_rate=1.0).step()
    torch.testing.assert_close(weight.item(), -1e-8 * 10**3.5, rtol=1e-6, atol=0)


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


def test_the_configuration_chooses_the_optimizer():
    kinds = {kind: build_optimizer({"optimizer": {"type": kind}}, [_parameter(1.0)]) for kind in ("adam", "sgd")}
    assert isinstance(kinds["adam"], torch.optim.Adam)
    assert isinstance(kinds["sgd"], torch.optim.SGD)


def test_without_an_optimizer_section_it_is_rmsprop():
    assert isinstance(build_optimizer({}, [_parameter(1.0)]), RMSprop)


def test_the_remaining_keys_are_options():
    config = {"optimizer": {"type": "rmsprop", "learning_rate": 0.5, "rho": 0.25}}
    group = build_optimizer(config, [_parameter(1.0)]).param_groups[0]
    assert (group["learning_rate"], group["rho"]) == (0.5, 0.25)


def test_adam_takes_the_defaults_of_keras():
    group = build_optimizer({"optimizer": {"type": "adam"}}, [_parameter(1.0)]).param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (0.001, (0.9, 0.999), 1e-7)


def test_sgd_steps_along_the_gradient():
    weight = _parameter(1.0)
    weight.grad = torch.full_like(weight, 2.0)
    build_optimizer({"optimizer": {"type": "sgd", "learning_rate": 0.1}}, [weight]).step()
    assert weight.item() == pytest.approx(0.8, rel=1e-12)


def test_an_unknown_type_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"one of rmsprop, adam, sgd, not 'lion'"):
        build_optimizer({"optimizer": {"type": "lion"}}, [_parameter(1.0)])


@pytest.mark.parametrize("kind", ["rmsprop", "adam", "sgd"])
def test_an_unknown_option_is_named(kind):
    with pytest.raises(ValueError, match=f"{kind} cannot be built with warmth=3"):
        build_optimizer({"optimizer": {"type": kind, "warmth": 3}}, [_parameter(1.0)])


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


def test_a_loaded_average_goes_on_from_there():
    network = nn.Linear(2, 1, bias=False)
    average = MovingAverage(network, 0.5)
    average.load({"weight": torch.full((1, 2), 4.0)})
    nn.init.zeros_(network.weight)
    average.update()
    assert average.averages["weight"].tolist() == [[2.0, 2.0]]


@pytest.mark.parametrize("config", [{}, {"polyak_decay": 0}, {"polyak_decay": 0.0}], ids=str)
def test_no_decay_means_no_average(config):
    assert build_average(config, nn.Linear(1, 1)) is None


@pytest.mark.parametrize("decay", [1.0, -0.5, 2.0])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match="polyak_decay"):
        build_average({"polyak_decay": decay}, nn.Linear(1, 1))


def _factors(steps: list[int], **options: object) -> list[float]:
    return [rate_factor({"max_train_steps": 100, "optimizer": options}, step) for step in steps]


def test_without_a_schedule_the_rate_stays():
    assert _factors([0, 50, 1000]) == [1, 1, 1]


def test_a_linear_schedule_ends_at_zero():
    assert _factors([0, 25, 100, 200], schedule="linear") == pytest.approx([1, 0.75, 0, 0])


def test_a_cosine_schedule_ends_at_zero_after_its_steps():
    assert _factors([0, 10, 20], schedule="cosine", decay_steps=20) == pytest.approx([1, 0.5, 0])


def test_a_warm_up_rises_to_the_whole_rate():
    assert _factors([0, 1, 3, 4, 100], warmup_steps=4) == pytest.approx([0.25, 0.5, 1, 1, 1])


def test_a_schedule_decays_after_its_warm_up():
    assert _factors([4, 52, 100], schedule="linear", warmup_steps=4) == pytest.approx([1, 0.5, 0])


@pytest.mark.parametrize("kind", ["rmsprop", "adam", "sgd"])
def test_the_rate_of_a_step_depends_on_its_number_alone(kind):
    config = {"max_train_steps": 10, "optimizer": {"type": kind, "learning_rate": 0.5, "schedule": "linear"}}
    optimizer = build_optimizer(config, [_parameter(1.0)])
    for step in (7, 2, 4):
        set_rates(optimizer, config, step)
    (group,) = optimizer.param_groups
    assert group["learning_rate" if kind == "rmsprop" else "lr"] == pytest.approx(0.5 * 0.6)


@pytest.mark.parametrize("options", [{"schedule": "steps"}, {"schedule": "cosine", "warmup_steps": 10}])
def test_a_schedule_that_cannot_be_is_refused_at_once(options):
    with pytest.raises(ValueError, match=r"config\.optimizer"):
        build_optimizer({"max_train_steps": 10, "optimizer": options | {"type": "sgd"}}, [_parameter(1.0)])


def _whole() -> dict[str, object]:
    return {"max_train_steps": 101, "polyak_decay": 0.99, "optimizer": {"warmup_steps": 5, "decay_steps": 80}}


def test_a_shortened_training_has_a_share_of_the_steps():
    short = shortened(_whole(), 10)
    assert short["max_train_steps"] == 11
    assert short["optimizer"] == {"warmup_steps": 5, "decay_steps": 8}


def test_a_shortened_training_averages_over_the_same_share_of_it():
    assert shortened(_whole(), 10)["polyak_decay"] == pytest.approx(0.99**10)


def test_shortening_by_one_changes_nothing():
    assert shortened(_whole(), 1) == _whole()


@pytest.mark.parametrize(
    "wrong",
    [{"max_train_steps": "many"}, {}, {"polyak_decay": -0.5}, {"polyak_decay": "0.9"}, {"optimizer": "adam"}],
)
def test_what_no_training_can_have_is_not_shortened(wrong):
    assert shortened(wrong, 2) == wrong
