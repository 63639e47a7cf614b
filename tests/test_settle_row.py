# SPDX-License-Identifier: Apache-2.0
"""A row drawn by fixed point is the row drawn pixel by pixel, whatever the guess, and takes as few passes as it may."""

from __future__ import annotations

import pytest
import torch
from decoder_of_tests import SETTINGS, SWITCHES, as_double, away_from_boundaries, random_row
from settle_cases import Case, check_case, random_cases
from torch import Tensor

from bench.setting import gray_photos
from coltran import checkpoint
from coltran.pipeline import PRETRAINED
from coltran.sampling import uniforms as random_numbers
from coltran.sampling.decoding import Rows, decoder_weights
from coltran.sampling.encoding import encode_gray
from coltran_kernels import DecoderWeights, RowLayer, RowTerms, decode_row, left_influence, reference, settle_row
from coltran_kernels.cpu import decode, linear, native, settle

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.mark.parametrize("case", random_cases(40), ids=str)
def test_the_specification_settles_on_the_sequential_labels(case: Case):
    check_case(case, implementation="reference")


@pytest.mark.parametrize("case", random_cases(60, first=100), ids=str)
def test_the_native_kernel_settles_on_the_sequential_labels(case: Case):
    if (reason := native.why_not()) is not None:
        pytest.skip(reason)
    check_case(case, implementation="cpu")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_natively_a_row_is_to_the_bit_the_one_drawn_pixel_by_pixel(precision: str):
    if (reason := native.why_not() or linear.why_not(precision)) is not None:
        pytest.skip(reason)
    for seed in range(6):
        torch.manual_seed(seed)
        weights, terms, uniforms = random_row(2, 21, 24, 40, 3, 70, 1 + seed % 3)
        packed, guess, settings = decode.pack(weights, precision), torch.randint(70, (2, 21)), SETTINGS | {"top_p": 0.9}
        influence = torch.randn(70, 70) if seed % 2 else None
        for target in range(len(native.targets())):
            expected = decode.decode_row(packed, terms, uniforms, target=target, **settings)
            for window, threads in ((1, 1), (4, 1), (7, 2), (21, 3)):
                more = {"window": window, "influence": influence, "threads": threads, "target": target}
                found = settle.settle_row(packed, terms, uniforms, guess, **more, **settings)
                assert all(torch.equal(a, b) for a, b in zip(expected, found[:3], strict=True))


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES.keys())
@pytest.mark.parametrize("changed", [{}, {"mode": "argmax"}, {"temperature": 0.7, "top_p": 0.8}], ids=str)
def test_the_native_kernel_takes_the_passes_of_the_specification(switches, changed):
    if (reason := native.why_not()) is not None:
        pytest.skip(reason)
    weights, terms, uniforms = random_row(3, 19, 24, 40, 3, 70, 2, **switches)
    given = torch.where(torch.rand(3, 19) < 0.2, torch.randint(70, (3, 19)), -1)
    guess, influence = torch.randint(70, (3, 19)), 2 * torch.randn(70, 70)
    for window, options in ((4, {}), (19, {}), (19, {"given": given})):
        options = SETTINGS | changed | options | {"window": window, "influence": influence}
        expected = reference.settle_row(weights, terms, uniforms, guess, **options)
        for threads in (1, 3):
            found = settle.settle_row(decode.pack(weights), terms, uniforms, guess, threads=threads, **options)
            assert torch.equal(found.passes, expected.passes) and torch.equal(found.computed, expected.computed)


def test_influence_is_what_the_network_says_of_two_pixels_that_are_conditioned_alike():
    weights, terms, _ = random_row(1, 5, 16, 12, 2, 20, 2, dtype=torch.float64)
    alike = RowTerms(
        terms.inputs.mean(1, keepdim=True).expand(1, 5, -1),
        tuple(
            RowLayer(*(t.mean(1, keepdim=True).expand(1, 5, -1) if t.dim() == 3 else t for t in layer))
            for layer in terms.layers
        ),
    )
    found = left_influence(weights, terms)
    for label in range(20):
        given = torch.tensor([[label, -1, -1, -1, -1]])
        uniforms = torch.zeros(1, 5, dtype=torch.float64)
        probabilities = reference.decode_row(weights, alike, uniforms, **SETTINGS | {"given": given})[2]
        assert probabilities is not None
        torch.testing.assert_close(found[label], probabilities[0, 1].log())


@torch.no_grad()
def test_influence_saves_passes_on_a_photograph():
    network = checkpoint.load(PRETRAINED / "colorizer")
    gray = gray_photos(PRETRAINED.parent / "demo", 1)
    weights, numbers, above = decoder_weights(network), random_numbers(0, [0], 64, 64), torch.zeros(1, 64).long()
    z = encode_gray(network, gray)
    rows = Rows(network, z, norm="exact", finished=lambda stage: None, implementation=None)
    influence, passes = left_influence(weights, rows.terms), [0, 0]
    for row in range(16):
        for i, given in enumerate((None, influence)):
            found = settle_row(weights, rows.terms, numbers[:, row], above, window=64, influence=given)
            passes[i] += int(found.passes)
        above = found.labels
        rows.advance(above)
    assert passes[1] < passes[0]


def drawn(weights: DecoderWeights, terms: RowTerms, uniforms: Tensor) -> Tensor:
    return decode_row(weights, terms, uniforms, implementation="reference")[0]


def a_row(width: int = 9) -> tuple[DecoderWeights, RowTerms, Tensor, Tensor]:
    """A row of three images in float64, and its labels."""
    weights, terms, uniforms = random_row(3, width, 16, 12, 2, 20, 2)
    uniforms, labels, _ = away_from_boundaries(weights, terms, uniforms, SETTINGS)
    return as_double(weights), as_double(terms), uniforms.double(), labels


@pytest.mark.parametrize(("window", "passes"), [(1, 9), (2, 5), (3, 3), (8, 2), (9, 1), (64, 1)])
def test_a_right_guess_settles_a_window_a_pass(window: int, passes: int):
    weights, terms, uniforms, labels = a_row()
    found = settle_row(weights, terms, uniforms, labels, window=window)
    assert torch.equal(found.labels, labels)
    assert found.passes.tolist() == [passes] * 3 and found.computed.tolist() == [9] * 3


def test_one_wrong_label_costs_one_pass_and_what_lies_behind_it():
    weights, terms, uniforms, labels = a_row()
    guess = labels.clone()
    guess[1, 4] = (guess[1, 4] + 1) % 20
    found = settle_row(weights, terms, uniforms, guess, window=9)
    assert torch.equal(found.labels, labels)
    assert found.passes.tolist()[::2] == [1, 1] and found.passes[1] >= 2
    assert found.computed[1] >= 9 + 4


@pytest.mark.parametrize("window", [1, 3, 64])
def test_no_row_takes_more_passes_than_pixels(window: int):
    weights, terms, uniforms, labels = a_row()
    found = settle_row(weights, terms, uniforms, (labels + 1) % 20, window=window)
    assert torch.equal(found.labels, labels)
    assert (found.passes <= 9).all() and (found.passes >= 9 / window).all()


def test_an_image_does_not_wait_for_its_batch():
    weights, terms, uniforms, labels = a_row()
    guess = torch.stack([labels[0], (labels[1] + 1) % 20, labels[2]])
    together = settle_row(weights, terms, uniforms, guess, window=4)
    assert together.passes.tolist()[::2] == [3, 3] and together.computed.tolist()[::2] == [9, 9]


@pytest.mark.parametrize("changed", [{"window": 0}, {"mode": "greedy"}, {"temperature": 0.0}, {"top_p": 1.1}], ids=str)
def test_arguments_out_of_range_are_refused(changed):
    weights, terms, uniforms, labels = a_row()
    with pytest.raises(ValueError, match=f"settle_row: {next(iter(changed))} must be"):
        settle_row(weights, terms, uniforms, labels, **changed)


def test_a_guess_that_does_not_fit_is_refused():
    weights, terms, uniforms, labels = a_row()
    with pytest.raises(ValueError, match=r"guess is \(3, 8\), not \(3, 9\)"):
        settle_row(weights, terms, uniforms, labels[:, 1:])
    for wrong in (-1, 20):
        with pytest.raises(ValueError, match=f"guess holds {wrong}, labels are 0 to 19"):
            settle_row(weights, terms, uniforms, torch.full_like(labels, wrong))


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES.keys())
def test_later_guesses_move_no_earlier_label(switches):
    weights, terms, uniforms = random_row(2, 7, 16, 12, 2, 20, 1, **switches)
    right = drawn(weights, terms, uniforms)
    for column in range(7):
        guess = right.clone()
        guess[:, column] = (guess[:, column] + 3) % 20
        found = settle_row(weights, terms, uniforms, guess, window=7)
        assert torch.equal(found.labels, right)
