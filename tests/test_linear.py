# SPDX-License-Identifier: Apache-2.0
"""The dense layer's product: every form and precision against torch's in float64, gradients, refusals, what is kept."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from coltran.networks.dense import Dense, products_in, with_precision
from coltran_kernels import linear, pack_linear, reference
from coltran_kernels.linear import bfloat16
from coltran_kernels.linear import cpu as dense

PRECISIONS = [p for p in dense.TYPES if p == "float32" or dense.unsupported_bfloat16() is None]
FORMS = [f for f in dense.FORMS if torch.backends.mkldnn.is_available() or f.startswith("torch")]
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
needs_bfloat16 = pytest.mark.skipif("bfloat16" not in PRECISIONS, reason=str(dense.unsupported_bfloat16()))


def _operands(rows, outputs, depth):
    return torch.randn(rows, depth), torch.randn(outputs, depth), torch.randn(outputs)


def _layer(weight, bias, form, precision="float32"):
    return dense.lay_out(weight, bias, precision, form)


def _assert_near(found, x, weight, bias=None, relu=False, precision="float32"):
    """To a few roundings of the sum of the terms' magnitudes; in bfloat16 from rounded operands, rounded once."""
    narrow = precision == "bfloat16"
    x, weight, bias = (None if t is None else (t.bfloat16() if narrow else t).double() for t in (x, weight, bias))
    expected = reference.linear(x, weight, bias, relu)
    bound = x.abs() @ weight.abs().T + (0 if bias is None else bias.abs())
    allowed = 2**-22 * (x.shape[-1] ** 0.5 + 4) * bound + (2**-8 * expected.abs() if narrow else 0)
    assert found.dtype == torch.float32
    assert ((found - expected).abs() <= allowed).all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [1, 63, 64, 65, 300])
@pytest.mark.parametrize("outputs", [1, 47, 100])
@pytest.mark.parametrize("depth", [1, 15, 520])
def test_every_form_multiplies_as_torch(precision, form, rows, outputs, depth):
    x, weight, bias = _operands(rows, outputs, depth)
    _assert_near(_layer(weight, None, form, precision).multiply(x), x, weight, None, False, precision)
    _assert_near(_layer(weight, bias, form, precision).multiply(x, True), x, weight, bias, True, precision)


@pytest.mark.parametrize("form", FORMS)
def test_strided_operands_are_read_where_they_lie(form):
    x, weight, bias = torch.randn(7, 5, 60)[:, :3, 10:50], torch.randn(30, 80)[:, 20:60], torch.randn(60)[::2]
    _assert_near(_layer(weight, bias, form).multiply(x), x, weight, bias)
    columns = torch.randn(40, 21).T
    _assert_near(_layer(weight, None, form).multiply(columns), columns, weight)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_row_can_tell_how_many_there_are(precision):
    x, weight, bias = _operands(200, 70, 90)
    layer = pack_linear(weight, bias, precision=precision)
    whole = layer.multiply(x)
    for first, last in ((0, 1), (5, 38), (100, 200), (3, 6)):
        assert torch.equal(layer.multiply(x[first:last]), whole[first:last])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_threads_give_the_same_result(precision):
    x, weight, bias = _operands(130, 200, 33)
    layer, threads = pack_linear(weight, bias, precision=precision), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = layer.multiply(x)
        torch.set_num_threads(3)
        assert torch.equal(layer.multiply(x), alone)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_a_number_stays_so_through_relu(form):
    x = torch.tensor([[float("nan")], [-1.0], [2.0]])
    found = _layer(torch.ones(1, 1), None, form).multiply(x, relu=True)[:, 0]
    assert found[0].isnan() and found[1:].tolist() == [0.0, 2.0]


@pytest.mark.parametrize("form", FORMS)
def test_no_inputs_give_the_bias_and_no_rows_no_rows(form):
    assert _layer(torch.randn(5, 8), None, form).multiply(torch.empty(3, 0, 8)).shape == (3, 0, 5)
    assert pack_linear(torch.empty(2, 0), torch.ones(2)) is None
    assert linear(torch.empty(3, 0), torch.empty(2, 0), torch.ones(2)).eq(1).all()


def test_nothing_is_packed_for_other_types_and_implementations():
    assert pack_linear(torch.randn(2, 4, dtype=torch.float64)) is None
    assert pack_linear(torch.randn(2, 4), implementation="reference") is None
    with pytest.raises(NotImplementedError, match="bfloat16 is served on the CPU"):
        pack_linear(torch.randn(2, 4), precision="bfloat16", implementation="reference")


def test_a_processor_without_units_for_bfloat16_says_so(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    with pytest.raises(NotImplementedError, match="needs a processor with units for it"):
        pack_linear(torch.randn(2, 4), precision="bfloat16")


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="the weight"):
        linear(torch.randn(3, 4), torch.randn(2, 5))
    with pytest.raises(ValueError, match="bias is"):
        linear(torch.randn(3, 4), torch.randn(2, 4), torch.randn(3))


# A module keeps its packed weights, and notices that they have changed.


def _changes():
    yield "in place", lambda layer: layer.weight.mul_(2)
    yield "the bias", lambda layer: layer.bias.add_(1)
    yield "by data", lambda layer: setattr(layer.weight, "data", torch.randn_like(layer.weight))
    yield "by loading", lambda layer: layer.load_state_dict(Dense(9, 5).state_dict())


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in _changes()])
@torch.no_grad()
def test_a_module_multiplies_with_its_weights_as_they_are(change):
    layer, x = Dense(9, 5), torch.randn(4, 9)
    before = layer(x)
    change(layer)
    assert not torch.equal(layer(x), before)
    _assert_near(layer(x), x, layer.weight, layer.bias)


@torch.no_grad()
def test_a_module_packs_once(monkeypatch):
    layer, x = Dense(9, 5), torch.randn(4, 9)
    expected = layer(x)
    monkeypatch.setattr(dense, "pack", None)
    assert torch.equal(layer(x), expected)


def test_a_module_that_has_multiplied_can_be_copied_and_trained():
    layer, x = Dense(9, 5), torch.randn(4, 9)
    with torch.no_grad():
        layer(x)
    twin = copy.deepcopy(layer)
    twin(x).sum().backward()
    torch.testing.assert_close(twin.weight.grad, x.sum(0).expand(5, 9))


def test_weights_whose_changes_torch_does_not_count_are_taken_as_they_are_now():
    with torch.inference_mode():
        layer, x = Dense(9, 5), torch.randn(4, 9)
        before = layer(x)
        layer.weight.mul_(2)
        layer.bias.mul_(2)
        torch.testing.assert_close(layer(x), 2 * before)


def test_weights_made_in_inference_mode_are_packed_once_and_seen_when_they_change(monkeypatch):
    x = torch.randn(4, 9)

    @with_precision
    def call(layer):
        return layer(x), layer(x)

    with torch.inference_mode():
        layer = Dense(9, 5)
        first, _ = call(layer)
        with monkeypatch.context() as patched:
            patched.setattr(dense, "pack", None)
            assert torch.equal(call(layer)[1], first)
        layer.weight.mul_(2)
        layer.bias.mul_(2)
        torch.testing.assert_close(call(layer)[1], 2 * first)


@needs_bfloat16
@torch.no_grad()
def test_a_module_multiplies_in_the_precision_asked_for():
    layer, x = Dense(9, 5), torch.randn(4, 9)
    before = layer(x)
    with products_in("bfloat16"):
        _assert_near(layer(x), x, layer.weight, layer.bias, precision="bfloat16")
        assert not torch.equal(layer(x), before)
    assert torch.equal(layer(x), before)


@needs_bfloat16
@torch.no_grad()
def test_what_stays_bfloat16_between_layers_is_what_would_be_rounded_again():
    layer, after, x = Dense(9, 70), Dense(70, 5), torch.randn(4, 9)
    with products_in("bfloat16"):
        wide, narrow = layer(x, relu=True), layer(x, relu=True, out_dtype=torch.bfloat16)
        assert layer.multiplies_bfloat16 and narrow.dtype == torch.bfloat16
        assert torch.equal(narrow.float(), wide)
        assert torch.equal(after(narrow), after(wide))
    assert not layer.multiplies_bfloat16 and layer(x, out_dtype=torch.bfloat16).dtype == torch.float32


def test_a_torch_without_onednn_takes_rows_in_blocks(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert pack_linear(torch.randn(5, 8)).form == "torch in blocks"


@needs_onednn
@pytest.mark.parametrize(("machine", "form"), [("x86_64", "packed"), ("aarch64", "packed in blocks")])
def test_only_products_that_were_seen_to_keep_rows_apart_take_all_at_once(monkeypatch, machine, form):
    monkeypatch.setattr(dense.platform, "machine", lambda: machine)
    assert pack_linear(torch.randn(5, 8)).form == form


@needs_onednn
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("rows", "outputs", "depth"), [((1030,), 33, 47), ((2, 512), 16, 1), ((3, 400), 1, 20)])
def test_onednns_way_has_the_gradients_of_float64(rows, outputs, depth, relu):
    x = torch.randn(*rows, 2 * depth)[..., ::2].requires_grad_()
    weight, bias = torch.randn(outputs, depth, requires_grad=True), torch.randn(outputs, requires_grad=True)
    y, grad = dense.linear_for_training(x, weight, bias, relu), torch.randn(*rows, outputs)
    of_x, of_weight, of_bias = torch.autograd.grad(y, (x, weight, bias), grad)
    flat_x, flat_y, flat_grad = (t.detach().flatten(0, -2) for t in (x, y, grad))
    _assert_near(flat_y, flat_x, weight.detach(), bias.detach(), relu)
    of_sums = (flat_grad * (flat_y > 0) if relu else flat_grad).double()
    near = {"rtol": 1e-5, "atol": 1e-4}
    torch.testing.assert_close(of_x.double().flatten(0, -2), of_sums @ weight.double(), **near)
    torch.testing.assert_close(of_weight.double(), of_sums.T @ flat_x.double(), **near)
    torch.testing.assert_close(of_bias.double(), of_sums.sum(0), **near)


@needs_onednn
def test_onednns_way_computes_only_the_gradients_that_are_wanted_and_keeps_what_is_not_a_number():
    x, weight = torch.randn(1024, 5), torch.randn(3, 5)
    missing = torch.full((1024, 5), float("nan"), requires_grad=True)
    assert dense.linear_for_training(missing, weight, None, True).isnan().all()
    for operands in ((x.clone().requires_grad_(), weight), (x, weight.clone().requires_grad_())):
        y = dense.linear_for_training(*operands, None, False)
        y.sum().backward()
        assert [t.grad is not None for t in operands] == [t.requires_grad for t in operands]


@needs_onednn
def test_onednn_serves_many_rows_with_a_gradient_alone():
    weight, bias = torch.randn(3, 2, requires_grad=True), torch.randn(3)
    many, few = torch.randn(1024, 2), torch.randn(1023, 2)
    assert dense.gains_in_training(many, weight, bias)
    assert not dense.gains_in_training(few, weight, bias)
    assert not dense.gains_in_training(many, weight.detach(), bias)
    assert not dense.gains_in_training(many.double(), weight, bias)


# For training in bfloat16.


def _mixed(relu: bool, mixed: bool) -> list[tuple[Tensor, Tensor]]:
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
def test_mixed_and_gradients_stay_within_the_rounding_of_bfloat16(relu):
    """Two factors and a result are rounded by at most 2^-9 each: 3 * 2^-9 of the sum of sizes, and a little float32."""
    for (ours, size), (exact, _) in zip(_mixed(relu, True), _mixed(relu, False), strict=True):
        assert ((ours - exact).abs() <= 3.1 * 2**-9 * size).all()
    (y, *_, bias), (exact, *_, exact_bias) = ([found for found, _ in _mixed(False, mixed)] for mixed in (True, False))
    assert not torch.equal(y, exact) and torch.equal(bias, exact_bias)  # the sum of g is float32's


def test_between_two_layers_values_and_their_gradients_may_stay_bfloat16():
    x, weight, bias = (torch.randn(shape) for shape in ((2, 7), (6, 7), (6,)))
    x = x.bfloat16().requires_grad_()
    y = bfloat16.linear(x, weight, bias, relu=True, out_dtype=torch.bfloat16)
    assert y.dtype == torch.autograd.grad(y.sum(), x)[0].dtype == torch.bfloat16
    exact = reference.linear(x.detach().double(), weight.double(), bias.double(), True)
    size = x.detach().double().abs() @ weight.double().abs().T + bias.double().abs()
    assert ((y - exact).abs() <= 2.1 * 2**-9 * size).all()  # one factor or the bias, and the result, are rounded
