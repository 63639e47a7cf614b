# SPDX-License-Identifier: Apache-2.0
"""The Triton kernel settles a row on the labels drawn pixel by pixel, in Triton's interpreter; what a launch needs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from concurrent_programs import concurrent_programs
from decoder_of_tests import SETTINGS, random_row, with_short_matrices
from settle_cases import Case, check_case

from coltran_kernels import reference, settle_row
from coltran_kernels.triton import decode_launch, settle_launch, tiles
from coltran_kernels.triton.decode_launch import Plan

if not tiles.INTERPRETED:
    pytest.skip("on a GPU the tensors of these tests are in the wrong memory", allow_module_level=True)

ONE = Plan(1, 16, 64, False)


pytestmark = pytest.mark.usefixtures("poisoned_memory")


# Batch, width, hidden, feed-forward, heads, labels, layers; how it is drawn; the window; what is given.
CASES = [
    Case(1, (2, 5, 33, 20, 3, 17, 1), "all", {"mode": "argmax"}, 0.6, 3, 0.3),
    Case(2, (1, 1, 16, 8, 1, 2, 1), "plain norms", {"temperature": 0.6}, 0.0, 1, 0.0),
    Case(3, (1, 17, 32, 33, 2, 64, 1), "added only", {"top_p": 0.9, "eps": 0.1}, 0.8, 64, 0.0),
    Case(4, (1, 5, 40, 32, 4, 512, 3), "not conditioned", {"temperature": 1.5, "top_p": 0.5}, 0.5, 4, 0.0),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_size_and_option_settles_on_the_sequential_labels(case: Case):
    check_case(case, implementation="triton")


def settled_as_specified(row: Any, plan: Plan, window: int, influenced: bool = True, **changed: Any) -> None:
    weights, terms, uniforms = row
    options = SETTINGS | changed
    expected = reference.decode_row(weights, terms, uniforms, **options)
    wrong = torch.rand(uniforms.shape) < 0.3
    guess = torch.where(wrong, 0, expected[0])
    labels = weights.embedding.shape[0]
    more = {"window": window, "influence": 2 * torch.randn(labels, labels) if influenced else None}
    plain = reference.settle_row(weights, terms, uniforms, guess, **more, **options)
    found = settle_launch.settle_row(weights, terms, uniforms, guess, plan=plan, **more, **options)
    assert torch.equal(found.labels, expected[0])
    torch.testing.assert_close(found.log_probs, expected[1], rtol=0, atol=1e-4)
    torch.testing.assert_close(found.probabilities, expected[2], rtol=0, atol=1e-4)
    assert torch.equal(found.passes, plain.passes) and torch.equal(found.computed, plain.computed)


@pytest.mark.parametrize("influenced", [False, True])
def test_it_takes_the_passes_of_the_specification(influenced: bool):
    settled_as_specified(random_row(1, 17, 32, 24, 2, 40, 2), ONE, 17, influenced)


def test_of_a_given_label_only_its_own_value_is_expected():
    given = torch.where(torch.rand(2, 9) < 0.4, torch.randint(40, (2, 9)), -1)
    settled_as_specified(random_row(2, 9, 32, 24, 2, 40, 1), ONE, window=9, mode="argmax", given=given)


@pytest.mark.parametrize(("batch", "resident", "changed"), [(2, False, {"mode": "argmax"}), (1, True, {"top_p": 0.9})])
def test_programs_that_share_an_image_meet_at_every_stage(batch: int, resident: bool, changed: dict[str, Any]):
    row = random_row(batch, 17, 16, 16, 1, 20, 1)
    with concurrent_programs():
        settled_as_specified(row, Plan(3, 16, 16, resident), window=17, **changed)


def test_a_decoder_without_layers():
    settled_as_specified(random_row(2, 5, 32, 32, 2, 16, 0), ONE, window=3)


def test_a_guess_beyond_the_labels_reads_no_foreign_memory():
    weights, terms, uniforms = random_row(1, 4, 32, 32, 2, 16, 1)
    expected = reference.decode_row(weights, terms, uniforms, **SETTINGS)[0]
    found = settle_launch.settle_row(weights, terms, uniforms, torch.full((1, 4), 99), window=4, **SETTINGS)
    assert torch.equal(found.labels, expected)


def test_a_dtype_that_it_cannot_serve_is_refused():
    weights, terms, uniforms = random_row(1, 1, 16, 16, 1, 8, 1, dtype=torch.float64)
    with pytest.raises(
        NotImplementedError, match="settle_row: implementation 'triton' cannot serve: it serves float32"
    ):
        settle_row(weights, terms, uniforms, torch.zeros(1, 1, dtype=torch.int64), implementation="triton")


def test_with_short_matrices_both_ways_compute_the_same():
    """float16 in bfloat16's place, which the interpreter computes wrongly."""
    weights, terms, uniforms = random_row(1, 6, 32, 32, 2, 40, 2)
    short = with_short_matrices(weights)
    given = torch.randint(40, (1, 6))
    expected = decode_launch.decode_row(short, terms, uniforms, **(SETTINGS | {"given": given}))
    found = settle_launch.settle_row(
        short, terms, uniforms, torch.zeros_like(given), window=6, **(SETTINGS | {"given": given})
    )
    torch.testing.assert_close(found.log_probs, expected[1], rtol=0, atol=2e-6)
