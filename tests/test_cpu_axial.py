# SPDX-License-Identifier: Apache-2.0
"""Axial attention by the native kernel, which serves where no gradient is wanted, against the specification."""

from __future__ import annotations

import pytest
import torch

from coltran_kernels import axial_attention
from coltran_kernels.cpu import axial, native, torch_ops
from tests.attention_cases import OPERANDS, assert_within_budget, make_operands

pytestmark = pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))
TARGETS = native.targets() if native.why_not() is None else []


def _attend(operands, axis, causal, target=-1):
    tensors = [operands.get(name) for name in OPERANDS]
    return axial.axial_attention(tensors[:9], tensors[9], axis=axis, causal=causal, target=target)


def _float(operands):
    return {name: tensor.float() for name, tensor in operands.items()}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("conditioned", ["", "k", "qkv"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("axis", ["row", "column"])
@pytest.mark.parametrize(("length", "channels"), [(1, 8), (7, 5), (31, 16), (33, 40), (64, 64), (100, 24)])
def test_every_instruction_set_is_within_twice_the_error_of_plain_torch(
    target, conditioned, causal, axis, length, channels
):
    operands = _float(make_operands(length, channels, axis, bias=length != 7, conditioned=conditioned))
    options = {"axis": axis, "causal": causal, "implementation": "reference"}
    exact = axial_attention(**{name: tensor.double() for name, tensor in operands.items()}, **options)
    plain = axial_attention(**operands, **options)
    found = _attend(operands, axis, causal, native.targets().index(target))
    assert_within_budget({"out": found}, {"out": plain}, {"out": exact})


@pytest.mark.parametrize("part", ["scale", "shift"])
def test_a_scale_or_a_shift_may_come_alone(part):
    operands = _float(make_operands(9, 8, "row"))
    alone = {name: tensor for name, tensor in operands.items() if name.endswith(part) or "_" not in name}
    expected = axial_attention(**alone, axis="row", causal=False, implementation="reference")
    torch.testing.assert_close(_attend(alone, "row", False), expected, rtol=0, atol=1e-5)


def test_the_operation_takes_it_where_no_gradient_is_wanted(monkeypatch):
    operands = _float(make_operands(5, 8, "row", conditioned="q"))
    seen = []
    monkeypatch.setattr(torch_ops.axial, "axial_attention", lambda *_, **__: seen.append(1))
    axial_attention(**operands, axis="row", causal=False)
    axial_attention(**operands | {"q_scale": operands["q_scale"].clone().requires_grad_()}, axis="row", causal=False)
    axial_attention(**{name: tensor.bfloat16() for name, tensor in operands.items()}, axis="row", causal=False)
    assert len(seen) == 1


def test_poisoned_memory_beside_the_operands_is_not_read():
    operands = _float(make_operands(17, 8, "column", lines=3))
    expected = _attend(operands, "column", True)
    for name in OPERANDS[:9]:
        room = torch.full((2, 17, 5, 4, 20), torch.nan)
        room[:, :, 1:4, :2, 6:14] = operands[name]
        operands[name] = room[:, :, 1:4, :2, 6:14]
    table = torch.full((4, 50), torch.nan)
    table[1:3, 3:37] = operands["bias"]
    assert torch.equal(_attend(operands | {"bias": table[1:3, 3:37]}, "column", True), expected)


def test_operands_without_contiguous_channels_are_copied():
    operands = _float(make_operands(6, 8, "row", conditioned=""))
    expected = _attend(operands, "row", False)
    turned = {name: t.transpose(-1, -2).contiguous().transpose(-1, -2) for name, t in operands.items() if name in "qkv"}
    assert torch.equal(_attend(operands | turned, "row", False), expected)


def test_no_line_can_tell_how_many_there_are():
    operands = _float(make_operands(21, 8, "row", batch=3, lines=5))
    whole = _attend(operands, "row", True)
    part = {name: tensor[1:2, 3:4] for name, tensor in operands.items() if name != "bias"}
    assert torch.equal(_attend(part | {"bias": operands["bias"]}, "row", True), whole[1:2, 3:4])


def test_threads_give_the_same_result():
    operands = _float(make_operands(40, 8, "row", lines=7))
    expected = _attend(operands, "row", False)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(_attend(operands, "row", False), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(0, 2, 3, 1, 4), (2, 0, 3, 1, 4)])
def test_nothing_comes_of_nothing(shape):
    q = torch.zeros(shape)
    assert _attend({"q": q, "k": q, "v": q}, "row", False).shape == shape
