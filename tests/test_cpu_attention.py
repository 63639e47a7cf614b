# SPDX-License-Identifier: Apache-2.0
"""Axial attention by batched products on views, against the specification."""

from __future__ import annotations

import pytest
import torch

from coltran_kernels import axial_attention
from coltran_kernels.cpu import attention
from tests.attention_cases import OPERANDS, assert_within_budget, make_operands, results

pytestmark = pytest.mark.usefixtures("poisoned_memory")


# length, channels, axis, causal, bias, conditioned; with more positions than 2 C the attention is not kept
CASES = [
    (1, 8, "row", True, True, "qkv"),
    (7, 16, "row", False, True, ""),
    (7, 8, "column", True, False, "qk"),
    (16, 8, "row", True, True, "qkv"),
    (17, 8, "row", False, True, "v"),
    (33, 8, "column", True, True, "qkv"),
    (33, 32, "column", False, False, ""),
    (64, 32, "row", True, True, "qkv"),
    (100, 8, "column", False, True, ""),
]


@pytest.mark.parametrize("step", [1, 1 << 16], ids=["line_by_line", "many_lines"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32_is_within_twice_the_error_of_plain_torch(monkeypatch, case, step):
    monkeypatch.setattr(attention, "SCORES", step)
    length, channels, axis, causal, bias, conditioned = case
    operands = make_operands(length, channels, axis, bias=bias, conditioned=conditioned, lines=3)
    options = {"axis": axis, "causal": causal}
    rounded = {name: tensor.float().double() for name, tensor in operands.items()}
    exact = results(rounded, torch.float64, "reference", **options)
    plain = results(operands, torch.float32, "reference", **options)
    assert_within_budget(results(operands, torch.float32, "cpu", **options), plain, exact)


@pytest.mark.parametrize("channels", [3, 1], ids=["kept", "computed_again"])
@pytest.mark.parametrize("axis", ["row", "column"])
def test_gradients_are_those_of_the_output(axis, channels):
    operands = make_operands(5, channels, axis)
    leaves = [operands[name].requires_grad_() for name in OPERANDS]

    def attend(*tensors):
        named = dict(zip(OPERANDS, tensors, strict=True))
        return axial_attention(**named, axis=axis, causal=True, implementation="cpu")

    assert torch.autograd.gradcheck(attend, leaves)


def test_no_attention_is_kept_where_no_gradient_is_wanted():
    operands = make_operands(8, 8, "row", conditioned="", bias=False)
    arguments = [operands.get(name) for name in OPERANDS]
    assert attention.attend(*arguments, "row", False, True)[1].shape == (2, 2, 2, 8, 8)
    assert attention.attend(*arguments, "row", False, False)[1].numel() == 0


@pytest.mark.parametrize("train", [True, False])
def test_the_operator_is_registered_completely(train):
    operands = make_operands(9, 8, "column", conditioned="")
    leaves = [operands[name].float().requires_grad_(train) if name in operands else None for name in OPERANDS]
    torch.library.opcheck(attention.attend, (*leaves, "column", True, train))


def test_bfloat16_takes_a_float32_bias():
    operands = make_operands(16, 8, "row", conditioned="")
    exact = axial_attention(**operands, axis="row", causal=False, implementation="reference")
    q, k, v = (operands[name].bfloat16() for name in "qkv")
    bias = operands["bias"].float().requires_grad_()
    found = axial_attention(q, k, v, bias, axis="row", causal=False, implementation="cpu")
    (gradient,) = torch.autograd.grad(found.float().sum(), bias)
    assert found.dtype == torch.bfloat16
    assert gradient.dtype == torch.float32
    assert (found.double() - exact).norm() < 8 * torch.finfo(torch.bfloat16).eps * exact.norm()
