# SPDX-License-Identifier: Apache-2.0
"""The native row decoder draws what the plain one draws, at every size and switch, and says when it cannot."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from decoder_of_tests import SETTINGS, as_double, away_from_boundaries
from torch import Tensor

from coltran_kernels import DecoderLayer, DecoderWeights, RowLayer, RowTerms, decode_row, prepare_decoder, reference
from coltran_kernels.cpu import decode, native
from coltran_kernels.cpu.linear import why_not


@pytest.fixture(scope="module")
def targets() -> list[str]:
    if (reason := native.why_not()) is not None:
        pytest.skip(reason)
    return native.targets()


def _weights(hidden: int, layers: int, *, ff: int, heads: int, width: int, labels: int = 512) -> DecoderWeights:
    def matrix(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns) * columns**-0.5

    found = [
        DecoderLayer(
            qkv=matrix(3 * hidden, hidden),
            bias=torch.randn(heads, 2 * width),
            out=matrix(hidden, hidden),
            ff1=matrix(ff, hidden),
            ff1_bias=torch.randn(ff) * 0.1,
            ff2=matrix(hidden, ff),
            ff2_bias=torch.randn(hidden) * 0.1,
        )
        for _ in range(layers)
    ]
    affine = 1 + torch.randn(hidden) * 0.1, torch.randn(hidden) * 0.1
    return DecoderWeights(
        torch.randn(labels, hidden), tuple(found), *affine, 2 * matrix(labels, hidden), torch.randn(labels)
    )


def _terms(batch: int, width: int, hidden: int, layers: int, absent: str = "", per_image: bool = True) -> RowTerms:
    def around(middle: float, *shape: int) -> Tensor:
        return middle + 0.2 * torch.randn(*shape)

    def layer() -> RowLayer:
        norm = (batch, hidden) if per_image else (hidden,)
        pairs = {
            name: None if name in absent else around(float("scale" in name), batch, width, columns)
            for name, columns in zip(RowLayer._fields[:4], (3 * hidden, 3 * hidden, hidden, hidden), strict=True)
        }
        return RowLayer(**pairs, **{n: around(float("scale" in n), *norm) for n in RowLayer._fields[4:]})

    return RowTerms(torch.randn(batch, width, hidden), tuple(layer() for _ in range(layers)))


def _check_against_reference(weights: DecoderWeights, terms: RowTerms, count: int, **changed: Any) -> None:
    """All instruction sets and one to two threads, against the specification in float64 and in float32."""
    settings = SETTINGS | changed
    uniforms, labels, probabilities = away_from_boundaries(weights, terms, torch.rand(terms.inputs.shape[:2]), settings)
    log_prob = probabilities.gather(-1, labels[..., None])[..., 0].log()
    assert torch.equal(reference.decode_row(weights, terms, uniforms, **settings)[0], labels)
    packed = decode.pack(weights)
    for target in range(count):
        for threads in (1, 2):
            found = decode.decode_row(packed, terms, uniforms, threads=threads, target=target, **settings)
            assert torch.equal(found[0], labels)
            torch.testing.assert_close(found[1].double(), log_prob, rtol=0, atol=1e-4)
            torch.testing.assert_close(found[2].double(), probabilities, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("batch", "width", "hidden", "heads", "layers"),
    [
        (1, 64, 32, 4, 1),
        (3, 7, 64, 2, 3),
        (16, 16, 128, 4, 2),
        (20, 7, 512, 4, 2),
        (33, 16, 40, 5, 2),
        (33, 1, 32, 1, 3),
        (1, 16, 512, 4, 3),
        (1, 1, 16, 2, 1),
    ],
)
def test_every_size_draws_the_references_labels(targets, batch, width, hidden, heads, layers):
    weights = _weights(hidden, layers, ff=hidden + 12, heads=heads, width=width)
    _check_against_reference(weights, _terms(batch, width, hidden, layers), len(targets))


@pytest.mark.parametrize(
    ("absent", "changed"),
    [
        ("", {"mode": "argmax"}),
        ("", {"temperature": 0.5}),
        ("", {"temperature": 1.7, "top_p": 0.9}),
        ("", {"top_p": 0.3}),
        ("qkv_scale qkv_shift", {}),
        ("qkv_scale ff_scale", {}),
        ("ff_scale ff_shift qkv_shift", {}),
        ("qkv_scale qkv_shift ff_scale ff_shift", {"mode": "argmax"}),
    ],
)
@pytest.mark.parametrize("per_image", [True, False], ids=["a norm an image", "one norm"])
def test_every_switch_draws_the_references_labels(targets, absent, changed, per_image):
    weights = _weights(24, 2, ff=20, heads=3, width=6, labels=70)
    _check_against_reference(weights, _terms(10, 6, 24, 2, absent, per_image), len(targets), **changed)


def test_given_labels_are_imposed_and_reported(targets):
    given = torch.where(torch.rand(10, 6) < 0.4, torch.randint(70, (10, 6)), -1)
    weights, terms = _weights(24, 2, ff=20, heads=3, width=6, labels=70), _terms(10, 6, 24, 2)
    _check_against_reference(weights, terms, len(targets), given=given)
    labels, log_prob, _ = decode_row(weights, terms, torch.rand(10, 6), given=given, implementation="cpu")
    assert torch.equal(labels[given >= 0], given[given >= 0])
    assert torch.isfinite(log_prob).all()


def test_terms_may_have_any_strides(targets):
    def spread(tensor: Tensor) -> Tensor:
        wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), float("nan"))
        wide[..., ::2] = tensor
        return wide[..., ::2]

    weights, terms = _weights(16, 2, ff=20, heads=2, width=5), _terms(3, 5, 16, 2)
    layers = tuple(RowLayer(*map(spread, layer)) for layer in terms.layers)
    _check_against_reference(weights, RowTerms(terms.inputs[:1].expand(3, -1, -1), layers), len(targets))


@pytest.mark.parametrize("hidden", [32, 256])
def test_an_image_is_drawn_alike_in_any_batch(targets, hidden):
    weights, terms = _weights(hidden, 2, ff=hidden, heads=2, width=8), _terms(33, 8, hidden, 2)
    uniforms, labels, _ = away_from_boundaries(weights, terms, torch.rand(33, 8), SETTINGS)
    packed = decode.pack(weights)
    for size in (1, 8, 12, 20, 32):
        layers = tuple(RowLayer(*(t[:size] for t in layer)) for layer in terms.layers)  # type: ignore[index]
        part = RowTerms(terms.inputs[:size], layers)
        found = decode.decode_row(packed, part, uniforms[:size], **SETTINGS)
        assert torch.equal(found[0], labels[:size])


def test_the_number_of_threads_changes_no_bit(targets):
    weights, terms, uniforms = _weights(64, 2, ff=96, heads=4, width=9), _terms(5, 9, 64, 2), torch.rand(5, 9)
    packed = decode.pack(weights)
    for target in range(len(targets)):
        one, two, five = (
            decode.decode_row(packed, terms, uniforms, threads=threads, target=target, **SETTINGS)
            for threads in (1, 2, 5)
        )
        assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(one, two, five, strict=True))


def test_memory_that_holds_nan_changes_no_bit(targets):
    weights, terms, uniforms = _weights(24, 2, ff=20, heads=3, width=6), _terms(9, 6, 24, 2), torch.rand(9, 6)
    clean = decode_row(weights, terms, uniforms, implementation="cpu")
    torch.use_deterministic_algorithms(True)  # fills torch.empty with NaN
    try:
        poisoned = decode_row(weights, terms, uniforms, implementation="cpu")
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(clean[0], poisoned[0]) and torch.equal(clean[1], poisoned[1])


def test_rows_decoded_at_once_do_not_meet(targets):
    weights = _weights(64, 2, ff=64, heads=2, width=16)
    packed = decode.pack(weights)
    rows = [(_terms(4, 16, 64, 2), torch.rand(4, 16)) for _ in range(6)]

    def run(row: tuple[RowTerms, Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        return decode.decode_row(packed, *row, threads=2, **SETTINGS)

    expected = [run(row) for row in rows]
    with ThreadPoolExecutor(3) as pool:
        for found, right in zip(pool.map(run, rows), expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(found, right, strict=True))


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 1.0), (1.0, 0.8)])
def test_twenty_thousand_draws_follow_the_probabilities(targets, temperature, top_p):
    draws, labels = 20_000, 16
    weights, terms = _weights(16, 1, ff=16, heads=2, width=1, labels=labels), _terms(1, 1, 16, 1)
    layers = (RowLayer(*(t.expand(draws, *t.shape[1:]) for t in terms.layers[0])),)  # type: ignore[union-attr]
    many = RowTerms(terms.inputs.expand(draws, -1, -1), layers)
    drawn, _, probabilities = decode_row(
        weights, many, torch.rand(draws, 1), temperature=temperature, top_p=top_p, return_probabilities=True,
        implementation="cpu",
    )  # fmt: skip
    assert probabilities is not None
    expected = (probabilities[0, 0].double() ** (1 / temperature)).clone()
    expected /= expected.sum()
    ranked, order = expected.sort(descending=True)
    expected[order[ranked.cumsum(0) - ranked >= top_p]] = 0
    expected *= draws / expected.sum()
    counts = torch.bincount(drawn[:, 0], minlength=labels)
    assert (counts[expected == 0] == 0).all()
    chi_square = ((counts - expected) ** 2 / expected)[expected > 0].sum()
    assert chi_square < 50  # at most 15 degrees of freedom: above with probability 1e-5


def test_prepared_weights_give_the_same_row(targets):
    weights, terms, uniforms = _weights(24, 2, ff=20, heads=3, width=6), _terms(2, 6, 24, 2), torch.rand(2, 6)
    prepared = prepare_decoder(weights)
    fresh, spared = (decode_row(weights, terms, uniforms, prepared=p) for p in (None, prepared))
    assert torch.equal(fresh[0], spared[0]) and torch.equal(fresh[1], spared[1])


def test_weights_prepared_for_another_implementation_are_refused(targets):
    weights, terms, uniforms = _weights(24, 2, ff=20, heads=3, width=6), _terms(2, 6, 24, 2), torch.rand(2, 6)
    prepared = prepare_decoder(weights)
    assert prepared is not None
    for_triton = prepared._replace(packed=weights)
    with pytest.raises(ValueError, match="prepared for another implementation"):
        decode_row(weights, terms, uniforms, prepared=for_triton)


def test_prepared_weights_that_have_changed_are_refused(targets):
    weights, terms, uniforms = _weights(16, 1, ff=20, heads=2, width=4), _terms(2, 4, 16, 1), torch.rand(2, 4)
    prepared = prepare_decoder(weights)
    with pytest.raises(ValueError, match="prepared for other weights"):
        decode_row(weights._replace(norm_bias=weights.norm_bias.clone()), terms, uniforms, prepared=prepared)
    weights.layers[0].out.mul_(2)
    with pytest.raises(ValueError, match="prepared for other weights"):
        decode_row(weights, terms, uniforms, prepared=prepared)


def test_the_native_decoder_says_what_it_cannot_serve(targets):
    weights, terms, uniforms = _weights(16, 1, ff=20, heads=2, width=4), _terms(2, 4, 16, 1), torch.rand(2, 4)
    with pytest.raises(NotImplementedError, match="float32, not in torch.float64"):
        decode_row(as_double(weights), as_double(terms), uniforms.double(), implementation="cpu")
    with pytest.raises(ValueError, match="given holds label 600"):
        decode_row(weights, terms, uniforms, given=torch.full((2, 4), 600), implementation="cpu")


@pytest.mark.parametrize("implementation", ["reference", "cpu"])
def test_shapes_that_do_not_fit_are_named(targets, implementation):
    weights, terms, uniforms = _weights(16, 1, ff=20, heads=2, width=4), _terms(2, 4, 16, 1), torch.rand(2, 4)
    short = RowTerms(terms.inputs, (terms.layers[0]._replace(ff_shift=torch.zeros(2, 3, 16)),))
    narrow = weights._replace(layers=(weights.layers[0]._replace(ff2=torch.zeros(16, 19)),))
    with pytest.raises(ValueError, match=r"terms of layer 0, ff_shift is \(2, 3, 16\), expected \(2, 4, 16\)"):
        decode_row(weights, short, uniforms, implementation=implementation)
    with pytest.raises(ValueError, match=r"weights of layer 0, ff2 is \(16, 19\), expected \(16, 20\)"):
        decode_row(narrow, terms, uniforms, implementation=implementation)
    with pytest.raises(ValueError, match=r"uniforms is \(2, 5\), expected \(2, 4\)"):
        decode_row(weights, terms, torch.rand(2, 5), implementation=implementation)


def _rounded(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The product of the values rounded to bfloat16."""
    y = x.bfloat16().double() @ weight.bfloat16().double().T
    return (y if bias is None else y + bias).to(x.dtype)


@pytest.mark.parametrize("batch", [1, 9, 13])
@pytest.mark.parametrize(("hidden", "ff", "heads"), [(64, 40, 2), (15, 21, 3), (300, 131, 2)])
def test_bfloat16_multiplies_rounded_values_and_sums_in_float32(targets, monkeypatch, batch, hidden, ff, heads):
    if (reason := why_not("bfloat16")) is not None:
        pytest.skip(reason)
    weights, terms = _weights(hidden, 2, ff=ff, heads=heads, width=5, labels=70), _terms(batch, 5, hidden, 2)
    # The first layer's products are sums of two, made elsewhere: here they are exact.
    first = torch.zeros(3 * hidden, hidden)
    first[torch.arange(3 * hidden), torch.arange(3 * hidden) * 7 % hidden] = 0.5
    weights = weights._replace(layers=(weights.layers[0]._replace(qkv=first), weights.layers[1]))
    terms = terms._replace(inputs=terms.inputs.bfloat16().float())
    settings = SETTINGS | {"given": torch.randint(70, (batch, 5))}
    uniforms, packed = torch.rand(batch, 5), decode.pack(weights, "bfloat16")
    exact = reference.decode_row(weights, terms, uniforms, **settings)[1]
    plain = F.linear
    monkeypatch.setattr(F, "linear", lambda x, w, b=None: (plain if w is first else _rounded)(x, w, b))
    expected = reference.decode_row(weights, terms, uniforms, **settings)[1]
    monkeypatch.undo()
    for target in range(len(targets)):
        for threads in (1, 2):
            found = decode.decode_row(packed, terms, uniforms, threads=threads, target=target, **settings)[1]
            # A sum that differs in its last bit may be rounded to the other side now and then.
            assert (found - expected).square().mean() < (exact - expected).square().mean() / 16


@pytest.mark.parametrize("hidden", [33, 256])
def test_an_image_is_drawn_alike_in_any_batch_in_bfloat16(targets, hidden):
    if (reason := why_not("bfloat16")) is not None:
        pytest.skip(reason)
    weights, terms = _weights(hidden, 2, ff=hidden, heads=1, width=8), _terms(33, 8, hidden, 2)
    uniforms, packed = torch.rand(33, 8), decode.pack(weights, "bfloat16")
    labels, log_prob, _ = decode.decode_row(packed, terms, uniforms, **SETTINGS)
    for size in (1, 5, 12, 20):
        layers = tuple(RowLayer(*(t[:size] for t in layer)) for layer in terms.layers)  # type: ignore[index]
        found = decode.decode_row(packed, RowTerms(terms.inputs[:size], layers), uniforms[:size], **SETTINGS)
        assert torch.equal(found[0], labels[:size]) and torch.equal(found[1], log_prob[:size])
