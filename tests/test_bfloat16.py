# SPDX-License-Identifier: Apache-2.0
"""Dense layers that multiply in bfloat16, beside float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from coltran.devices import choose
from coltran.train import train
from coltran.training.step import start
from coltran_kernels import bfloat16, reference
from tests.tiny_training import whole_config, write_photos

ROUNDING = 2**-8  # spacing of bfloat16 values in relation to their size; rounding moves a value by half of it


def _results(relu: bool, mixed: bool) -> list[tuple[Tensor, Tensor]]:
    """Output and gradients, each with the sums of the sizes of its terms, which bound how far rounding can move it."""
    draw = torch.Generator().manual_seed(0)
    x, weight, bias, grad = (torch.randn(shape, generator=draw) for shape in ((3, 5, 7), (6, 7), (6,), (3, 5, 6)))
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    y = bfloat16.linear(*leaves, relu=relu) if mixed else reference.linear(*leaves, relu)
    found = [y, *torch.autograd.grad(y, leaves, grad)]
    g, rows = grad.abs().flatten(0, 1), x.detach().abs().flatten(0, 1)
    sizes = [
        (rows @ weight.detach().abs().T).view(3, 5, 6), (g @ weight.detach().abs()).view_as(x), g.T @ rows, g.sum(0),
    ]  # fmt: skip
    return list(zip((t.detach() for t in found), sizes, strict=True))


@pytest.mark.parametrize("relu", [False, True])
def test_results_and_gradients_stay_within_the_rounding_of_bfloat16(relu):
    """Two factors and a result are rounded by at most 2^-9 each: 3 * 2^-9 of the sum of sizes, and a little float32."""
    for (ours, size), (exact, _) in zip(_results(relu, True), _results(relu, False), strict=True):
        assert ((ours - exact).abs() <= 3.1 * ROUNDING / 2 * size).all()


def test_products_are_rounded_to_bfloat16():
    assert not torch.equal(_results(False, True)[0][0], _results(False, False)[0][0])


def test_between_two_layers_values_and_their_gradients_may_stay_bfloat16():
    x, weight, bias = (torch.randn(shape) for shape in ((2, 7), (6, 7), (6,)))
    x = x.bfloat16().requires_grad_()
    y = bfloat16.linear(x, weight, bias, relu=True, narrow=True)
    assert y.dtype == torch.autograd.grad(y.sum(), x)[0].dtype == torch.bfloat16
    exact = reference.linear(x.detach().double(), weight.double(), bias.double(), True)
    size = x.detach().double().abs() @ weight.double().abs().T + bias.double().abs()
    assert ((y - exact).abs() <= 2.1 * ROUNDING / 2 * size).all()  # one factor or the bias, and the result, are rounded


def test_the_gradient_of_the_bias_is_float32s():
    assert torch.equal(_results(False, True)[3][0], _results(False, False)[3][0])


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without units for it torch computes in bfloat16 all the same, only slowly."""
    monkeypatch.setattr(choose, "_has_bfloat16", lambda device: True)
    monkeypatch.setattr(choose, "_product_seconds", lambda device, dtype: 1.0)


def test_a_training_in_bfloat16_keeps_float32_weights(served):
    training = start(whole_config(), 0, torch.device("cpu"), "bfloat16")
    assert {p.dtype for p in training.network.parameters()} == {torch.float32}


def test_a_training_in_bfloat16_goes_on_to_the_bit(served, tmp_path: Path):
    photos = write_photos(tmp_path / "photos")
    for name, stops in (("whole", (6,)), ("parts", (3, 6))):
        for steps in stops:
            train(whole_config(max_train_steps=steps), tmp_path / name, photos, workers=0, precision="bfloat16")
    ours, theirs = (load_file(tmp_path / name / "checkpoint-000006/model.safetensors") for name in ("parts", "whole"))
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
