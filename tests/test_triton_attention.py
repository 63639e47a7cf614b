# SPDX-License-Identifier: Apache-2.0
"""Axial attention in Triton, interpreted where there is no GPU, against the specification."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from coltran_kernels import axial_attention
from coltran_kernels.triton import attention, attention_backward
from tests.attention_cases import OPERANDS, assert_within_budget, make_operands, results

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


pytestmark = pytest.mark.usefixtures("poisoned_memory")


def on_device(operands):
    return {name: tensor.to(DEVICE) for name, tensor in operands.items()}


# length, channels, axis, causal, bias, conditioned: every size with either axis and mask, of which each meets all four
# pairs of the last two at some size; all 240 would be most of the suite.
_ALL = list(product((1, 7, 16, 33, 64), (8, 16, 32), ("row", "column"), (False, True), (False, True), ("", "qkv")))
GRID = [_ALL[4 * n + (n + n // 4) % 4] for n in range(len(_ALL) // 4)]
BEYOND = [
    (7, 8, "column", True, True, "qk"),
    (33, 16, "row", True, False, "v"),
    (65, 8, "row", True, True, "qkv"),
    (80, 16, "column", False, True, "qkv"),
    (130, 8, "row", True, True, ""),
    (9, 24, "column", True, True, "qkv"),
    (40, 128, "row", True, True, "qkv"),
]
PAPERS = [(64, 128, "column", True, True, "qkv"), (64, 128, "row", False, True, ""), (256, 128, "row", False, True, "")]


def _check(case, dtype, **sizes):
    length, channels, axis, causal, bias, conditioned = case
    operands = on_device(make_operands(length, channels, axis, bias=bias, conditioned=conditioned, **sizes))
    options = {"axis": axis, "causal": causal}
    rounded = {name: tensor.to(dtype).double() for name, tensor in operands.items()}
    exact = results(rounded, torch.float64, "reference", **options)
    plain = results(operands, dtype, "reference", **options)
    assert_within_budget(results(operands, dtype, "triton", **options), plain, exact)


@pytest.mark.parametrize("case", GRID, ids=str)
def test_float32_is_within_twice_the_error_of_plain_torch(case):
    _check(case, torch.float32, batch=1)


@pytest.mark.parametrize("case", BEYOND, ids=str)
def test_float32_beyond_the_grid_is_within_twice_the_error_of_plain_torch(case):
    _check(case, torch.float32, lines=1)


@pytest.mark.parametrize("case", [*GRID[::5], *BEYOND], ids=str)
def test_float16_is_within_twice_the_error_of_plain_torch(case):
    _check(case, torch.float16, lines=1)


@pytest.mark.skipif(DEVICE == "cpu", reason="Triton's interpreter computes bfloat16 wrongly")
@pytest.mark.parametrize("case", [*GRID[::5], *BEYOND, *PAPERS], ids=str)
def test_bfloat16_is_within_twice_the_error_of_plain_torch(case):
    _check(case, torch.bfloat16, lines=3)


@pytest.mark.parametrize(
    ("length", "axis", "causal"), [(1, "row", False), (5, "row", True), (18, "column", False), (66, "row", True)]
)
def test_gradients_are_those_of_the_output(length, axis, causal):
    operands = on_device(make_operands(length, 8, axis, batch=1, lines=1))
    leaves = [operands[name].requires_grad_() for name in OPERANDS]

    def attend(*tensors):
        named = dict(zip(OPERANDS, tensors, strict=True))
        return axial_attention(**named, axis=axis, causal=causal, implementation="triton")

    assert torch.autograd.gradcheck(attend, leaves, fast_mode=True)


@pytest.mark.parametrize(("length", "axis"), [(33, "row"), (70, "column")])
def test_no_later_position_moves_an_earlier_output(length, axis):
    operands = on_device(make_operands(length, 8, axis, batch=1))
    before = axial_attention(**operands, axis=axis, causal=True, implementation="triton")
    dimension, changed = (2 if axis == "row" else 1), length // 2
    for name, tensor in operands.items():
        if name != "bias":
            operands[name] = tensor.clone()
            operands[name].select(dimension, changed).add_(1.0)
    after = axial_attention(**operands, axis=axis, causal=True, implementation="triton")
    same = (before == after).movedim(dimension, 0).flatten(1)
    assert same[:changed].all()
    assert not same[changed:].any(1).all()


def test_strides_do_not_matter():
    operands = on_device(make_operands(16, 8, "column"))
    strided = {
        name: tensor if name == "bias" else tensor.permute(3, 2, 0, 1, 4).contiguous().permute(2, 3, 1, 0, 4)
        for name, tensor in operands.items()
    }
    options = {"axis": "column", "causal": False, "implementation": "triton"}
    assert torch.equal(axial_attention(**operands, **options), axial_attention(**strided, **options))


def test_channels_that_are_not_adjacent_are_brought_together():
    operands = on_device(make_operands(7, 8, "row", conditioned="", bias=False))
    apart = {name: tensor.transpose(-1, -2).contiguous().transpose(-1, -2) for name, tensor in operands.items()}
    options = {"axis": "row", "causal": False, "implementation": "triton"}
    assert torch.equal(axial_attention(**operands, **options), axial_attention(**apart, **options))


def test_more_than_128_channels_are_refused():
    operands = on_device(make_operands(2, 129, "row", conditioned="", bias=False))
    with pytest.raises(NotImplementedError, match="C <= 128, not 129"):
        axial_attention(**operands, axis="row", causal=False, implementation="triton")


def test_operands_of_different_types_are_refused():
    operands = make_operands(2, 8, "row", conditioned="", bias=False)
    operands["k"] = operands["k"].float()
    with pytest.raises(ValueError, match="k is torch.float32, q torch.float64"):
        axial_attention(**operands, axis="row", causal=False)


@pytest.mark.parametrize("length", [9, 70])
def test_the_operator_is_registered_completely(length):
    operands = on_device(make_operands(length, 8, "row", batch=1, conditioned="q"))
    arguments = [operands.get(name) for name in OPERANDS]
    leaves = [None if t is None else t.float().requires_grad_() for t in arguments]
    torch.library.opcheck(attention.attend, (*leaves, "row", True, True))


def test_the_bias_gradient_is_the_sum_along_each_diagonal():
    """In tiles 2 x 4 of a line of 5, a value at (row, column) counts for entry column - row + 4."""
    values = torch.randn(5, 5, dtype=torch.float64)
    of_blocks = torch.zeros(1, 3, 12, dtype=torch.float64)
    expected = torch.zeros(10, dtype=torch.float64)
    for row in range(5):
        for column in range(5):
            of_blocks[0, row // 2, column - row % 2 + 4] += values[row, column]
            expected[column - row + 4] += values[row, column]
    torch.testing.assert_close(attention_backward.fold(of_blocks, 5, 2, 4)[0], expected)


@pytest.mark.parametrize("length", [9, 80])
def test_a_bias_of_any_strides_is_read_where_it_lies(length):
    operands = on_device(make_operands(length, 8, "row", conditioned="", lines=1))
    wide = torch.randn(2, 4 * length, dtype=torch.float64, device=DEVICE)
    found, expected = [], []
    for bias in (wide[:, ::2], wide[:1, : 2 * length].expand(2, -1)):
        found.append(results(operands | {"bias": bias}, torch.float64, "triton", axis="row", causal=True))
        expected.append(results(operands | {"bias": bias}, torch.float64, "reference", axis="row", causal=True))
    torch.testing.assert_close(found, expected)
