# SPDX-License-Identifier: Apache-2.0
"""The specification of a draw: the inverse of a cumulative distribution, tempered, cut at top-p, guided; and Jacobi."""

from __future__ import annotations

import pytest
import torch

from coltran_kernels import SamplingOptions, reference
from coltran_kernels.decode_row.shapes import check_options
from coltran_kernels.reference import draw
from tests.operations import SETTINGS, as_double, away_from_boundaries, random_row

PROBABILITIES = torch.tensor([0.1, 0.4, 0.2, 0.3])


def _draw(uniforms, probabilities=PROBABILITIES, temperature=1.0, top_p=1.0, mode="sample"):
    logits = probabilities.log().expand(len(uniforms), -1)
    return draw(logits, torch.tensor(uniforms), SamplingOptions(mode, temperature, top_p)).tolist()


def test_a_uniform_number_falls_into_the_interval_of_its_label():
    assert _draw([0.0, 0.05, 0.15, 0.45, 0.55, 0.65, 0.75, 0.95]) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_labels_without_probability_are_never_drawn():
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.5, 0.0])
    assert _draw([0.0, 0.25, 0.5, 0.75, 1 - 2**-24], probabilities) == [1, 1, 3, 3, 3]
    logits = torch.randn(200, 512) * 5
    labels = draw(logits, torch.full((200,), 1 - 2**-24), SamplingOptions())
    assert labels.max() <= 511
    assert (logits.softmax(-1).gather(1, labels[:, None]) > 0).all()


def test_temperature_sharpens_the_distribution():
    squared = PROBABILITIES**2 / (PROBABILITIES**2).sum()
    edges = squared.cumsum(0).tolist()
    assert _draw([edges[0] - 0.01, edges[0] + 0.01, edges[2] - 0.01, edges[2] + 0.01], temperature=0.5) == [0, 1, 2, 3]


def test_top_p_keeps_the_fewest_most_probable_labels_that_hold_it():
    uniforms = [0.0, 0.3, 0.56, 0.58, 0.99]
    assert _draw(uniforms, top_p=0.4) == [1, 1, 1, 1, 1]
    assert _draw(uniforms, top_p=0.41) == [1, 1, 1, 3, 3]
    assert _draw([0.0, 0.43, 0.46, 0.99], top_p=0.8) == [1, 1, 2, 3]


def test_ties_go_to_the_smaller_label():
    assert _draw([0.0, 0.99], torch.full((4,), 0.25), top_p=0.3) == [0, 1]
    assert _draw([0.9], torch.tensor([0.2, 0.4, 0.4]), mode="argmax") == [1]


def test_frequencies_of_draws_match_the_probabilities():
    logits, count = torch.randn(512), 20_000
    labels = draw(logits.expand(count, -1), torch.rand(count), SamplingOptions())
    expected = count * logits.softmax(-1)
    chi_square = ((torch.bincount(labels, minlength=512) - expected) ** 2 / expected).sum()
    assert 390 < chi_square < 650  # 511 degrees of freedom: outside with probability below 1e-4


@pytest.mark.parametrize("temperature", [1e-30, 1e30])
def test_the_ends_of_the_temperature_are_the_likeliest_and_any(temperature):
    drawn = _draw([0.01, 0.3, 0.6, 0.99], temperature=temperature)
    assert drawn == ([1, 1, 1, 1] if temperature < 1 else [0, 1, 2, 3])


@pytest.mark.parametrize(
    "options", [{"temperature": 1e-46}, {"temperature": 1e39}, {"temperature": float("nan")}, {"top_p": 1e-46}]
)
def test_what_is_nothing_in_float32_is_refused(options):
    with pytest.raises(ValueError, match="must be from"):
        check_options("draw", SamplingOptions(**options))


def test_a_guided_row_is_drawn_from_the_normalised_sum_of_logits_and_guidance():
    weights, terms, uniforms = as_double(random_row(400, 4, 16, 12, 2, 6, 1))
    guidance = torch.tensor([2.0, -2.0, 0.0, 1.0, -6.0, 0.5], dtype=torch.float64).expand(400, 4, 6)
    found = reference.decode_row(weights, terms, uniforms, SETTINGS._replace(guidance=guidance))
    guided = (found.probabilities.log() + guidance).log_softmax(-1)
    for of, log_prob in ((guided, found.guided_log_prob), (found.probabilities.log(), found.log_prob)):
        torch.testing.assert_close(of.gather(-1, found.labels[..., None])[..., 0], log_prob, rtol=0, atol=1e-6)
    expected = draw(guided.flatten(0, 1), uniforms.flatten(), SamplingOptions())
    assert torch.equal(found.labels.flatten(), expected)


# Jacobi decoding; that it draws the sequential row from any guess is in test_decode_row.py.


def a_row() -> tuple:
    """A row of three images in float64, and its labels."""
    weights, terms, uniforms = random_row(3, 9, 16, 12, 2, 20, 2)
    uniforms, labels, _ = away_from_boundaries(weights, terms, uniforms, SETTINGS)
    return *as_double((weights, terms, uniforms)), labels


def test_a_right_guess_takes_one_pass_and_a_wrong_label_one_more_of_its_image_alone():
    *row, labels = a_row()
    assert reference.decode_row_jacobi(*row, labels, SETTINGS)[1].tolist() == [1, 1, 1]
    guess = labels.clone()
    guess[1, 4] = (guess[1, 4] + 1) % 20
    found, passes = reference.decode_row_jacobi(*row, guess, SETTINGS)
    assert torch.equal(found.labels, labels)
    assert passes[0] == passes[2] == 1 and passes[1] >= 2


def test_no_guess_takes_more_passes_than_there_are_pixels():
    *row, labels = a_row()
    _, passes = reference.decode_row_jacobi(*row, (labels + 1) % 20, SETTINGS)
    assert ((passes >= 1) & (passes <= 9)).all()


def test_a_pass_is_the_forward_that_sees_the_labels_before_a_pixel_alone():
    weights, terms, _, labels = a_row()
    logits = reference.row_logits(weights, terms, labels, 1e-3)
    for column in range(9):
        changed = labels.clone()
        changed[:, column] = (changed[:, column] + 3) % 20
        moved = reference.row_logits(weights, terms, changed, 1e-3)
        torch.testing.assert_close(moved[:, : column + 1], logits[:, : column + 1], rtol=0, atol=0)
        assert column == 8 or (moved[:, column + 1] != logits[:, column + 1]).any()
