# SPDX-License-Identifier: Apache-2.0
"""Three training steps of the original program, number by number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from coltran import convert, networks
from coltran.config import OptimizerConfig, read
from coltran.networks.losses import compute_losses
from coltran.training.optimizer import build_average, build_optimizer

STEPS = 3
EXCERPT = Path(__file__).resolve().parent / "fixtures" / "training.npz"  # of the data: all but the results


def _load(original: dict[str, np.ndarray], prefix: str) -> nn.Module:
    """A network holding the original's arrays under `prefix`, zero where it has none (no gradient)."""
    arrays = {name.removeprefix("weights/"): a for name, a in original.items() if name.startswith("weights/")}
    chosen = {name: original.get(prefix + name, np.zeros_like(array)) for name, array in arrays.items()}
    network = networks.build(json.loads(str(original["config_json"])))
    convert.load_tf_variables(network, chosen)
    return network


def _steps(original: dict[str, np.ndarray]) -> dict[str, Any]:
    """The same steps here: losses of each, gradients of the first, weights and averages after the last."""
    config = json.loads(str(original["train_config_json"]))
    network = _load(original, "weights/")
    optimizer = build_optimizer(read(OptimizerConfig, config["optimizer"]), network.parameters())
    average = build_average(config["polyak_decay"], network)
    assert average is not None
    losses, gradients = [], {}
    for step in range(STEPS):
        batch = {"rgb": torch.from_numpy(original[f"step{step}/input_rgb"])}
        losses.append(compute_losses(network, batch, config, training=True))
        optimizer.zero_grad()
        losses[-1]["total_loss"].backward()
        if step == 0:
            gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
        optimizer.step()
        average.update()
    return {
        "losses": losses,
        "gradients": gradients,
        "weights": dict(network.named_parameters()),
        "averages": average.averages,
    }


def _assert_close(ours: dict[str, Tensor], theirs: nn.Module, tolerance: float) -> None:
    for name, expected in theirs.named_parameters():
        error = (ours[name] - expected).norm() / expected.norm().clamp_min(1e-30)
        assert error < tolerance, f"{name}: {error:.1e}"


def test_the_losses_of_three_steps_are_the_originals():
    with np.load(EXCERPT) as arrays:
        excerpt = dict(arrays)
    steps = _steps(excerpt)["losses"]
    for name, key in (("loss", "loss"), ("encoder", "encoder_loss"), ("total_loss", "total_loss")):
        ours = [float(losses[name].detach()) for losses in steps]
        np.testing.assert_allclose(ours, [excerpt[f"step{step}/{key}"] for step in range(STEPS)], rtol=1e-5)


def test_gradients_weights_and_averages_are_the_originals(parity):
    """And what moved the weights, a far smaller quantity, so that an idle optimizer cannot pass."""
    original = parity("training")
    ours, first = _steps(original), dict(_load(original, "weights/").named_parameters())
    trained = {name for name, p in _load(original, "grad0/").named_parameters() if p.count_nonzero()}
    assert trained == set(ours["gradients"])
    for kind, prefix in (("gradients", "grad0/"), ("weights", "after3/"), ("averages", "ema3/")):
        _assert_close(ours[kind], _load(original, prefix), 1e-5 if kind == "gradients" else 1e-6)
    for name, after in _load(original, "after3/").named_parameters():
        moved = after - first[name]
        assert (ours["weights"][name] - first[name] - moved).norm() < 1e-3 * moved.norm(), name
