# SPDX-License-Identifier: Apache-2.0
"""The native row decoder beyond what it draws: threads, prepared weights, bfloat16, and what it cannot serve."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from coltran_kernels import DecodedRow, RowConditioning, SamplingOptions, decode_row, prepare_decoder, reference
from coltran_kernels.decode_row import cpu
from coltran_kernels.linear.cpu import unsupported_bfloat16
from tests.operations import SETTINGS, TARGETS, as_double, needs_native, random_row

pytestmark = needs_native
needs_bfloat16 = pytest.mark.skipif(unsupported_bfloat16() is not None, reason=str(unsupported_bfloat16()))


@pytest.mark.parametrize("target", range(len(TARGETS)))
def test_the_number_of_threads_changes_no_bit(target):
    weights, terms, uniforms = random_row(5, 9, 64, 96, 4, 512, 2)
    packed = cpu.pack(weights)
    one, two, five = (
        cpu.decode_row(packed, terms, uniforms, SETTINGS, threads=threads, target=target) for threads in (1, 2, 5)
    )
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(one, two, five, strict=True))


def test_rows_decoded_at_once_do_not_meet():
    rows = [random_row(4, 16, 64, 64, 2, 512, 2) for _ in range(6)]

    def run(row: tuple) -> DecodedRow:
        return cpu.decode_row(cpu.pack(row[0]), *row[1:], SETTINGS, threads=2)

    expected = [run(row) for row in rows]
    with ThreadPoolExecutor(3) as pool:
        for found, right in zip(pool.map(run, rows), expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(found, right, strict=True))


def test_prepared_weights_give_the_same_row_and_are_refused_once_they_have_changed():
    weights, terms, uniforms = random_row(2, 6, 24, 20, 3, 40, 2)
    prepared = prepare_decoder(weights)
    fresh, spared = (decode_row(weights, terms, uniforms, prepared=p) for p in (None, prepared))
    assert torch.equal(fresh.labels, spared.labels) and torch.equal(fresh.log_prob, spared.log_prob)
    with pytest.raises(ValueError, match="prepared for another implementation"):
        decode_row(weights, terms, uniforms, prepared=prepared._replace(packed=weights))
    with pytest.raises(ValueError, match="prepared for other weights"):
        decode_row(weights._replace(norm_bias=weights.norm_bias.clone()), terms, uniforms, prepared=prepared)
    weights.layers[0].out.mul_(2)
    with pytest.raises(ValueError, match="prepared for other weights"):
        decode_row(weights, terms, uniforms, prepared=prepared)


def test_it_says_what_it_cannot_serve():
    weights, terms, uniforms = random_row(2, 4, 16, 20, 2, 512, 1)
    with pytest.raises(NotImplementedError, match="float32, not in torch.float64"):
        decode_row(as_double(weights), as_double(terms), uniforms.double(), implementation="cpu")
    with pytest.raises(ValueError, match="given holds label 600"):
        decode_row(weights, terms, uniforms, SamplingOptions(given=torch.full((2, 4), 600)), implementation="cpu")


def test_a_row_under_autocast_is_the_row_without():
    row = random_row(2, 5, 32, 32, 2, 40, 2)
    expected = decode_row(*row)
    with torch.autocast("cpu", torch.bfloat16):
        found = decode_row(*row)
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.log_prob, expected.log_prob, rtol=0, atol=0.1)  # the first products are autocast's


def _rounded(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The product of the values rounded to bfloat16."""
    y = x.bfloat16().double() @ weight.bfloat16().double().T
    return (y if bias is None else y + bias).to(x.dtype)


@needs_bfloat16
@pytest.mark.parametrize("batch", [1, 9, 13])
@pytest.mark.parametrize(("hidden", "ff", "heads"), [(64, 40, 2), (15, 21, 3), (300, 131, 2)])
def test_bfloat16_multiplies_rounded_values_and_sums_in_float32(monkeypatch, batch, hidden, ff, heads):
    weights, terms, uniforms = random_row(batch, 5, hidden, ff, heads, 70, 2)
    # The first layer's products are sums of two, made elsewhere: here they are exact.
    first = torch.zeros(3 * hidden, hidden)
    first[torch.arange(3 * hidden), torch.arange(3 * hidden) * 7 % hidden] = 0.5
    weights = weights._replace(layers=(weights.layers[0]._replace(qkv=first), weights.layers[1]))
    terms = terms._replace(inputs=terms.inputs.bfloat16().float())
    settings = SETTINGS._replace(given=torch.randint(70, (batch, 5)))
    packed = cpu.pack(weights, "bfloat16")
    exact = reference.decode_row(weights, terms, uniforms, settings).log_prob
    plain = F.linear
    monkeypatch.setattr(F, "linear", lambda x, w, b=None: (plain if w is first else _rounded)(x, w, b))
    expected = reference.decode_row(weights, terms, uniforms, settings).log_prob
    monkeypatch.undo()
    for target in range(len(TARGETS)):
        for threads in (1, 2):
            found = cpu.decode_row(packed, terms, uniforms, settings, threads=threads, target=target).log_prob
            # A sum that differs in its last bit may be rounded to the other side now and then.
            assert (found - expected).square().mean() < (exact - expected).square().mean() / 16


@needs_bfloat16
@pytest.mark.parametrize("hidden", [33, 256])
def test_an_image_is_drawn_alike_in_any_batch_in_bfloat16(hidden):
    weights, terms, uniforms = random_row(33, 8, hidden, hidden, 1, 512, 2)
    packed = cpu.pack(weights, "bfloat16")
    labels, log_prob, *_ = cpu.decode_row(packed, terms, uniforms, SETTINGS)
    for size in (1, 5, 12, 20):
        layers = tuple(layer._make(t[:size] for t in layer) for layer in terms.layers)
        found = cpu.decode_row(packed, RowConditioning(terms.inputs[:size], layers), uniforms[:size], SETTINGS)
        assert torch.equal(found.labels, labels[:size]) and torch.equal(found.log_prob, log_prob[:size])
