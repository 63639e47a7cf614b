# SPDX-License-Identifier: Apache-2.0
"""A row drawn by fixed point is the row drawn pixel by pixel, whatever the guess, and takes as few passes as it may."""

from __future__ import annotations

import pytest
import torch
from decoder_of_tests import SETTINGS, SWITCHES, as_double, away_from_boundaries, random_row
from settle_cases import Case, check_case, random_cases
from torch import Tensor

from coltran_kernels import DecoderWeights, RowTerms, decode_row, settle_row
from coltran_kernels.cpu import decode, linear, native, settle


@pytest.fixture(autouse=True)
def _poisoned_memory():
    torch.use_deterministic_algorithms(True)  # fills torch.empty with NaN
    yield
    torch.use_deterministic_algorithms(False)


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
        for target in range(len(native.targets())):
            expected = decode.decode_row(packed, terms, uniforms, target=target, **settings)
            for window, threads in ((1, 1), (4, 1), (7, 2), (21, 3)):
                more = {"window": window, "threads": threads, "target": target}
                found = settle.settle_row(packed, terms, uniforms, guess, **more, **settings)
                assert all(torch.equal(a, b) for a, b in zip(expected, found[:3], strict=True))


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
