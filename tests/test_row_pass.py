# SPDX-License-Identifier: Apache-2.0
"""Jacobi decoding on tensors that stay where they are draws the specification's row: in torch and interpreted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from coltran_kernels import (
    RowDraws,
    SamplingOptions,
    append_attention,
    axial_attention,
    begin_row,
    reference,
    row_attention,
    row_pass,
    row_state,
    triton_common,
)
from tests.operations import SETTINGS, SWITCHES, as_double, away_from_boundaries, random_row

pytestmark = pytest.mark.usefixtures("poisoned_memory")
BOTH = ["reference", pytest.param("triton", marks=pytest.mark.skipif(not triton_common.INTERPRETED, reason="a GPU"))]
HEIGHT = 3


def decode(row: Any, options: SamplingOptions, guess: torch.Tensor, implementation: str, number: int) -> Any:
    """Row `number` of images of HEIGHT rows by passes until all is settled, and the state after that."""
    weights, terms, uniforms = row
    (batch, width), labels, dtype = uniforms.shape, len(weights.embedding), terms.inputs.dtype

    def tall(x: torch.Tensor | None) -> torch.Tensor | None:
        """As the row of an image whose other rows are not to be looked at."""
        if x is None:
            return None
        image = torch.full((batch, HEIGHT, *x.shape[1:]), 0 if x.dtype == torch.int64 else float("nan"), dtype=x.dtype)
        image[:, number] = x
        return image

    knobs = torch.tensor([options.temperature, options.top_p], dtype=dtype)
    draws = RowDraws(tall(uniforms), tall(options.given), tall(options.guidance), knobs)
    state = row_state(
        batch, (HEIGHT, width), labels, uniforms.device, guided=options.guidance is not None,
        probabilities=options.return_probabilities, dtype=dtype,
    )  # fmt: skip
    state.rows.add_(number)
    if number:
        state.labels[:, number - 1] = guess
    begin_row(state, draws, implementation=implementation)
    assert state.rows.tolist() == [number - 1, number]
    kind = {"argmax": options.mode == "argmax", "nucleus": options.top_p < 1}
    for passes in range(width + 2):
        if not state.unsettled.item():
            break
        row_pass(weights, terms, state, draws, **kind, eps=options.eps, implementation=implementation)
        assert passes < width
    return state, draws


@pytest.mark.parametrize("implementation", BOTH)
@pytest.mark.parametrize(
    ("sizes", "switches", "changed"),
    [
        ((3, 7, 24, 20, 3, 40, 2), "all", {}),
        ((2, 1, 16, 16, 1, 8, 1), "added only", {"mode": "argmax"}),
        ((1, 9, 32, 48, 2, 33, 1), "not conditioned", {"temperature": 0.7, "top_p": 0.8}),
        ((2, 6, 16, 12, 2, 20, 1), "plain norms", {"eps": 0.1}),
        ((2, 5, 16, 12, 2, 20, 0), "all", {}),
    ],
    ids=str,
)
@pytest.mark.parametrize(("imposed", "guided"), [(0.0, False), (0.3, True)])
def test_the_row_is_the_sequential_one(implementation, sizes, switches, changed, imposed, guided):
    batch, width, labels = sizes[0], sizes[1], sizes[5]
    weights, terms, uniforms = random_row(*sizes, **SWITCHES[switches])
    given = torch.where(torch.rand(batch, width) < imposed, torch.randint(labels, (batch, width)), -1)
    guidance = 2 * torch.randn(batch, width, labels) if guided else None
    options = SETTINGS._replace(**changed, given=given if imposed else None, guidance=guidance)
    uniforms, expected, probabilities = away_from_boundaries(weights, terms, uniforms, options)
    right = reference.decode_row(*as_double((weights, terms, uniforms)), options)
    guess = torch.where(torch.rand(batch, width) < 0.5, expected, torch.randint(labels, (batch, width)))
    for number in (0, 2):
        state, _ = decode((weights, terms, uniforms), options, guess, implementation, number)
        assert torch.equal(state.labels[:, number], expected)
        for found, exact in (
            (state.log_prob, right.log_prob), (state.guided_log_prob, right.guided_log_prob),
            (state.probabilities, probabilities),
        ):  # fmt: skip
            torch.testing.assert_close(found[:, number].double(), exact.double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("implementation", BOTH)
def test_passes_are_counted_for_each_image_as_the_specification_counts_them(implementation):
    weights, terms, uniforms = random_row(3, 8, 16, 12, 2, 20, 1)
    uniforms, labels, _ = away_from_boundaries(weights, terms, uniforms, SETTINGS)
    guess = labels.clone()
    guess[1, 4] = (guess[1, 4] + 1) % 20
    state, draws = decode((weights, terms, uniforms), SETTINGS, guess, implementation, 1)
    expected = reference.decode_row_jacobi(*as_double((weights, terms, uniforms)), guess, SETTINGS)[1]
    assert state.passes[:, 1].tolist() == expected.tolist() and expected[1] > expected[0] == 1
    assert state.final.tolist() == [8] * 3 and state.arrived.tolist() == [0] * 3
    before = [t.clone() for t in state if t is not None]
    for kept in terms.inputs, draws.uniforms:
        kept.fill_(float("nan"))  # a pass over rows that are final changes nothing, whatever it would find
    row_pass(weights, terms, state, draws, argmax=False, nucleus=False, eps=1e-3, implementation=implementation)
    assert all(torch.equal(a, b) for a, b in zip(before, (t for t in state if t is not None), strict=True))


@pytest.mark.parametrize("implementation", BOTH)
def test_the_first_row_is_guessed_and_the_next_is_what_lies_above_or_is_imposed(implementation):
    state = row_state(2, (3, 5), 9, torch.device("cpu"), guided=False, probabilities=False)
    given = torch.full((2, 3, 5), -1)
    given[0, 1, 2] = 7
    draws = RowDraws(torch.rand(2, 3, 5), given, None, torch.ones(2))
    begin_row(state, draws, implementation=implementation)
    assert state.labels[:, 0].tolist() == [[0] * 5] * 2 and state.above.tolist() == [[0] * 5] * 2
    state.labels[:, 0] = torch.arange(10).view(2, 5) % 9
    begin_row(state, draws, implementation=implementation)
    assert state.above.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 0]]
    assert state.labels[:, 1].tolist() == [[0, 1, 7, 3, 4], [5, 6, 7, 8, 0]]
    assert state.previous.tolist() == [[-1, 0, 1, 7, 3], [-1, 5, 6, 7, 8]]
    assert state.unsettled.item() == 2 and state.first.tolist() == [5, 5]


@pytest.mark.parametrize("implementation", BOTH)
@pytest.mark.parametrize(("batch", "width", "heads", "channels", "height"), [(2, 3, 2, 5, 7), (1, 2, 1, 16, 40)])
def test_attention_over_appended_rows_is_causal_column_attention(implementation, batch, width, heads, channels, height):
    qkv = torch.randn(batch, height, width, 3 * heads * channels)
    bias = torch.randn(heads, 2 * height)
    q, k, v = qkv.double().unflatten(-1, (3, heads, -1)).unbind(3)
    expected = axial_attention(q, k, v, bias.double(), axis="column", causal=True).flatten(-2)
    cache = torch.empty(2, batch, width, heads, height, channels)
    assert cache.isnan().all()
    for row in range(height):
        found = append_attention(
            qkv[:, row].contiguous(), cache, bias, torch.tensor([row]), implementation=implementation
        )
        torch.testing.assert_close(found.double(), expected[:, row], rtol=0, atol=1e-5)
    assert torch.equal(cache[0], qkv.unflatten(-1, (3, heads, -1))[..., 1, :, :].permute(0, 2, 3, 1, 4))


@pytest.mark.parametrize("implementation", BOTH)
def test_attention_along_a_row_leaves_final_images_alone(implementation):
    qkv, bias = torch.randn(3, 7, 3 * 2 * 8), torch.randn(2, 14)
    q, k, v = qkv[:, None].unflatten(-1, (3, 2, -1)).unbind(3)
    for causal in (True, False):
        expected = axial_attention(q, k, v, bias, axis="row", causal=causal, implementation="reference")
        expected = expected[:, 0].flatten(-2)
        final = torch.tensor([7, 0, 6], dtype=torch.int32)
        found = row_attention(qkv, bias, causal=causal, final=final, implementation=implementation)
        torch.testing.assert_close(found[1:], expected[1:])
        assert implementation == "reference" or found[0].isnan().all()
