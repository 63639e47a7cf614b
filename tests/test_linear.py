# SPDX-License-Identifier: Apache-2.0
"""The dense layer's product: the native kernel against torch's in float64, its gradients, what it refuses."""

from __future__ import annotations

import pytest
import torch

from coltran_kernels import linear, reference
from coltran_kernels.cpu import linear as dense
from coltran_kernels.cpu import native

pytestmark = pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))


def _operands(rows, outputs, depth):
    return torch.randn(rows, depth), torch.randn(outputs, depth), torch.randn(outputs)


def _assert_near(found, x, weight, bias=None, relu=False):
    """To a few roundings of the sum of the terms' magnitudes."""
    x, weight = x.double(), weight.double()
    bias = None if bias is None else bias.double()
    expected = reference.linear(x, weight, bias, relu)
    bound = x.abs() @ weight.abs().T + (0 if bias is None else bias.abs())
    assert ((found - expected).abs() <= 2**-22 * (x.shape[-1] ** 0.5 + 4) * bound).all()


@pytest.mark.parametrize("target", native.targets() if native.why_not() is None else [])
@pytest.mark.parametrize("rows", [1, 31, 32, 33, 300, 1027])
@pytest.mark.parametrize("outputs", [1, 11, 12, 47, 48, 100])
@pytest.mark.parametrize("depth", [1, 15, 520])
def test_every_instruction_set_multiplies_as_torch(target, rows, outputs, depth):
    x, weight, bias = _operands(rows, outputs, depth)
    index = native.targets().index(target)
    _assert_near(dense.multiply(x, weight, None, False, target=index), x, weight)
    _assert_near(dense.multiply(x, weight, bias, True, target=index), x, weight, bias, True)


def test_strided_operands_are_read_where_they_lie():
    x, weight, bias = torch.randn(7, 5, 60)[:, :3, 10:50], torch.randn(30, 80)[:, 20:60], torch.randn(60)[::2]
    _assert_near(linear(x, weight, bias), x, weight, bias)
    columns = torch.randn(40, 21).T
    _assert_near(linear(columns, weight), columns, weight)


def test_poisoned_memory_beside_the_operands_is_not_read():
    x, weight = torch.full((40, 64), torch.nan), torch.full((20, 64), torch.nan)
    x[:33, :50], weight[:13, :50] = torch.randn(33, 50), torch.randn(13, 50)
    _assert_near(linear(x[:33, :50], weight[:13, :50]), x[:33, :50], weight[:13, :50])


def test_no_row_can_tell_how_many_there_are():
    x, weight, bias = _operands(200, 70, 90)
    whole = linear(x, weight, bias)
    for part in (x[:1], x[5:38], x[100:]):
        assert torch.equal(linear(part, weight, bias), whole[(x == part[0]).all(1).nonzero().item() :][: len(part)])


def test_threads_give_the_same_result():
    x, weight, bias = _operands(130, 200, 33)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = linear(x, weight, bias)
        torch.set_num_threads(3)
        assert torch.equal(linear(x, weight, bias), alone)
    finally:
        torch.set_num_threads(threads)


def test_what_is_not_a_number_stays_so_through_relu():
    x = torch.tensor([[float("nan")], [-1.0], [2.0]])
    found = linear(x, torch.ones(1, 1), relu=True)[:, 0]
    assert found[0].isnan() and found[1:].tolist() == [0.0, 2.0]


def test_no_inputs_give_the_bias():
    assert linear(torch.empty(3, 0), torch.empty(2, 0), torch.ones(2)).eq(1).all()


def test_no_rows_give_no_rows():
    assert linear(torch.empty(3, 0, 8), torch.randn(5, 8)).shape == (3, 0, 5)


@pytest.mark.parametrize("relu", [False, True])
def test_gradients_are_those_of_torch(relu):
    operands = [t.requires_grad_() for t in (torch.randn(2, 3, 20), torch.randn(7, 20), torch.randn(7))]
    grad = torch.randn(2, 3, 7)
    found = torch.autograd.grad(linear(*operands, relu=relu), operands, grad)
    expected = torch.autograd.grad(reference.linear(*operands, relu), operands, grad)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_only_the_gradients_asked_for_are_computed():
    x, weight, bias = _operands(4, 3, 5)
    (of_weight,) = torch.autograd.grad(linear(x, weight.requires_grad_(), bias).sum(), [weight])
    torch.testing.assert_close(of_weight, x.sum(0).expand(3, 5))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_the_operator_is_sound(relu, biased):
    x, weight, bias = (t.requires_grad_() for t in _operands(6, 5, 9))
    torch.library.opcheck(dense.multiply_traced, (x, weight, bias if biased else None, relu))


def test_other_types_go_to_torch_unless_the_native_kernel_is_named():
    x, weight = torch.randn(3, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    assert torch.equal(linear(x, weight), reference.linear(x, weight, None, False))
    with pytest.raises(NotImplementedError, match="float32, not in torch.float64"):
        linear(x, weight, implementation="cpu")


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="the weight"):
        linear(torch.randn(3, 4), torch.randn(2, 5))
    with pytest.raises(ValueError, match="bias is"):
        linear(torch.randn(3, 4), torch.randn(2, 4), torch.randn(3))
