# SPDX-License-Identifier: Apache-2.0
"""Drawing one label: the inverse of a cumulative distribution, tempered and cut at top-p."""

from __future__ import annotations

import pytest
import torch

from coltran_kernels.reference import draw
from coltran_kernels.shapes import check_draw

PROBABILITIES = torch.tensor([0.1, 0.4, 0.2, 0.3])


def _draw(uniforms, probabilities=PROBABILITIES, temperature=1.0, top_p=1.0, mode="sample"):
    logits = probabilities.log().expand(len(uniforms), -1)
    return draw(logits, torch.tensor(uniforms), mode=mode, temperature=temperature, top_p=top_p).tolist()


def test_a_uniform_number_falls_into_the_interval_of_its_label():
    assert _draw([0.0, 0.05, 0.15, 0.45, 0.55, 0.65, 0.75, 0.95]) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_labels_without_probability_are_never_drawn():
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.5, 0.0])
    assert _draw([0.0, 0.25, 0.5, 0.75, 1 - 2**-24], probabilities) == [1, 1, 3, 3, 3]


def test_the_largest_uniform_number_draws_the_last_label_that_has_probability():
    logits = torch.randn(200, 512) * 5
    labels = draw(logits, torch.full((200,), 1 - 2**-24), mode="sample", temperature=1.0, top_p=1.0)
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


def test_top_p_breaks_ties_by_the_smaller_label():
    assert _draw([0.0, 0.99], torch.full((4,), 0.25), top_p=0.3) == [0, 1]


def test_argmax_takes_the_first_of_equals():
    assert _draw([0.9], torch.tensor([0.2, 0.4, 0.4]), mode="argmax") == [1]


def test_frequencies_of_draws_match_the_probabilities():
    torch.manual_seed(0)
    logits = torch.randn(512)
    count = 20_000
    labels = draw(logits.expand(count, -1), torch.rand(count), mode="sample", temperature=1.0, top_p=1.0)
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
        check_draw("draw", "sample", **({"temperature": 1.0, "top_p": 1.0} | options))
