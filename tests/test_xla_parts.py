# SPDX-License-Identifier: Apache-2.0
"""What the XLA path computes, as plain torch on the CPU: all of it but torch_xla's own loop (tests/xla/)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map

from coltran.sampling import decoding_graphs
from coltran.sampling.decoding import InnerRows, OuterRows
from coltran_kernels import add_layer_norm, axial_attention, cached_attention, decode_row, reference, settle_row
from coltran_kernels.xla import operations, settle, step
from tests.attention_cases import OPERANDS, make_operands
from tests.decoder_of_tests import SETTINGS, SWITCHES, random_row
from tests.tiny import OPTIONS, random_colorizer


def plain_scan(function: Any, carry: Any, columns: Any) -> tuple[Any, Any]:
    """What a scan is: the same function once a column, and what it found side by side."""
    found = []
    for j in range(len(columns.number)):
        carry, one = function(carry, tree_map(lambda t, j=j: None if t is None else t[j], columns))
        found.append(one)
    return carry, type(found[0])(*(None if t[0] is None else torch.stack(t) for t in zip(*found, strict=True)))


def plain_loop(function: Any, carry: Any) -> Any:
    """What a loop is."""
    while carry.unsettled:
        carry = function(carry)
    return carry


@pytest.mark.parametrize(
    ("length", "axis", "causal", "bias", "conditioned"),
    [(1, "row", True, True, "qkv"), (7, "column", True, True, "qk"), (6, "row", False, True, ""),
     (5, "column", False, False, "v"), (9, "row", True, False, "")],
)  # fmt: skip
def test_attention_and_its_gradients_are_the_specifications(length, axis, causal, bias, conditioned):
    operands = make_operands(length, 8, axis, bias=bias, conditioned=conditioned)
    leaves = [tensor.requires_grad_() for tensor in operands.values()]
    named = {"bias": None} | dict(zip(operands, leaves, strict=True))
    outputs = [module.axial_attention(**named, axis=axis, causal=causal) for module in (operations, reference)]
    weight = torch.randn_like(outputs[0])
    for found, right in zip(*(torch.autograd.grad(out, leaves, weight) for out in outputs), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-10)
    assert set(operands) <= set(OPERANDS)


@pytest.mark.parametrize("shape", [(16,), (2, 1, 1, 16)])
def test_the_norm_and_its_gradients_are_the_specifications(shape):
    x, residual = torch.randn(2, 2, 3, 5, 16, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (x, residual, *torch.randn(2, *shape, dtype=torch.float64))]
    outputs = [module.add_layer_norm(*leaves, 1e-3) for module in (operations, reference)]
    weight = torch.randn_like(x)
    for found, right in zip(*(torch.autograd.grad(out, leaves, weight) for out in outputs), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-10)


def test_a_bias_of_minus_infinity_leaves_a_row_out():
    q, k, v = torch.randn(2, 5, 2, 4), *torch.randn(2, 2, 6, 5, 2, 4)
    bias = torch.randn(2, 6)
    hidden = bias.clone()
    hidden[:, 4:] = float("-inf")
    expected = reference.cached_attention(q, k[:, :4], v[:, :4], bias[:, :4])
    torch.testing.assert_close(operations.cached_attention(q, k, v, hidden), expected)


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES.keys())
@pytest.mark.parametrize(
    "changed", [{}, {"mode": "argmax"}, {"temperature": 0.7, "top_p": 0.8}, {"top_p": 0.3}], ids=str
)
def test_scanning_the_step_draws_the_specifications_row(switches, changed):
    weights, terms, uniforms = random_row(3, 7, 16, 12, 2, 40, 2, **switches, dtype=torch.float64)
    given = torch.where(torch.rand(3, 7) < 0.3, torch.randint(40, (3, 7)), -1)
    for imposed in (None, given):
        options = SETTINGS | changed | {"given": imposed}
        found = step.decode_row(weights, terms, uniforms, scan=plain_scan, **options)
        right = reference.decode_row(weights, terms, uniforms, **options)
        assert torch.equal(found[0], right[0])
        torch.testing.assert_close(found[1:], right[1:], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES.keys())
@pytest.mark.parametrize(
    "changed", [{}, {"mode": "argmax"}, {"temperature": 0.7, "top_p": 0.8}, {"top_p": 0.3}], ids=str
)
def test_passes_over_whole_rows_settle_on_the_specifications_row_in_its_passes(switches, changed):
    for width, share, imposing in ((1, 0.0, False), (7, 0.0, False), (7, 0.7, True), (7, 1.0, False)):
        weights, terms, uniforms = random_row(3, width, 16, 12, 2, 40, 2, **switches, dtype=torch.float64)
        given = torch.where(torch.rand(3, width) < 0.3, torch.randint(40, (3, width)), -1) if imposing else None
        options = SETTINGS | changed | {"given": given}
        right = reference.decode_row(weights, terms, uniforms, **options)
        guess = torch.where(torch.rand(3, width) < share, right[0], torch.randint(40, (3, width)))
        found = settle.settle_row(weights, terms, uniforms, guess, loop=plain_loop, **options)
        plain = reference.settle_row(weights, terms, uniforms, guess, window=width, influence=None, **options)
        assert torch.equal(found.labels, right[0])
        torch.testing.assert_close(found[1:3], right[1:], rtol=1e-9, atol=1e-9)
        assert torch.equal(found.passes, plain.passes)
        assert found.computed.tolist() == [width * int(plain.passes.max())] * 3


def test_a_later_column_moves_no_earlier_one():
    weights, terms, uniforms = random_row(2, 6, 16, 12, 2, 40, 2)
    changed = terms._replace(inputs=terms.inputs.clone())
    changed.inputs[:, 4] += 1
    before, after = (step.decode_row(weights, t, uniforms, scan=plain_scan, **SETTINGS)[2] for t in (terms, changed))
    assert torch.equal(before[:, :4], after[:, :4]) and not torch.equal(before[:, 4], after[:, 4])


@pytest.mark.parametrize("norm", ["exact", "rowcontext"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@torch.no_grad()
def test_a_row_whose_number_is_a_tensor_is_the_same_row(options, norm):
    network, z, labels = (
        random_colorizer(**options).double(),
        torch.randn(2, 6, 8, 16).double(),
        torch.randint(512, (2, 6, 8)),
    )
    inner, outer = InnerRows(network.inner_decoder, z, norm=norm), OuterRows(network.outer_decoder, z)
    image, rows, terms = decoding_graphs.begin(network, z, norm=norm, implementation="reference")
    upper = z.new_zeros(2, 8, 16)
    for row in range(6):
        expected = inner.terms(row, upper, implementation="reference")
        tree_map(lambda a, b: a is b or torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9), terms, expected)
        if row < 5:
            upper = outer.push(row, network.embedding(labels[:, row]), implementation="reference")
            terms = decoding_graphs.advance(network, image, rows, labels[:, row], implementation="reference")
    assert rows.row.item() == 5


def test_the_cpu_is_told_that_it_is_no_xla_device():
    x, bias = torch.randn(2, 3, 4, 2, 8), torch.randn(2, 8)
    calls = (
        lambda: axial_attention(x, x, x, bias, axis="row", causal=False, implementation="xla"),
        lambda: cached_attention(x[:, 0], x, x, torch.randn(2, 3), implementation="xla"),
        lambda: add_layer_norm(x, implementation="xla"),
        lambda: decode_row(*random_row(1, 3, 16, 12, 2, 40, 1), implementation="xla"),
        lambda: settle_row(*random_row(1, 3, 16, 12, 2, 40, 1), torch.zeros(1, 3).long(), implementation="xla"),
    )
    for call in calls:
        with pytest.raises(NotImplementedError, match="'xla' cannot serve a tensor on cpu"):
            call()
