# SPDX-License-Identifier: Apache-2.0
"""Random rows with random guesses: what a row by fixed point is compared on with the row pixel by pixel."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import torch
from decoder_of_tests import SETTINGS, SWITCHES, as_double, away_from_boundaries, each_tensor, random_row

from coltran_kernels import reference, settle_row


class Case(NamedTuple):
    """A network, a row of it, and how it is drawn."""

    seed: int
    sizes: tuple[int, ...]  # batch, width, hidden, feed-forward, heads, labels, layers
    switches: str
    options: dict[str, Any]
    right: float  # share of the guess that is right
    window: int
    imposed: float  # share of the pixels that are given
    influence: bool = False

    def __str__(self) -> str:
        sizes = "-".join(map(str, self.sizes))
        options = " ".join(f"{name}={value}" for name, value in self.options.items())
        more = " influence" if self.influence else ""
        return f"{self.seed}: {sizes} {self.switches} {options} right={self.right} window={self.window}{more}"


def random_case(seed: int, widest: int = 40) -> Case:
    """A case of small sizes, odd ones among them, with every option now and then."""
    choose = random.Random(seed)
    heads = choose.choice((1, 2, 3, 4))
    options: dict[str, Any] = choose.choice(
        ({}, {}, {"mode": "argmax"}, {"temperature": 0.6}, {"temperature": 1.5, "top_p": 0.7}, {"top_p": 0.9})
    )
    return Case(
        seed,
        (
            choose.choice((1, 1, 2, 3, 5)),
            choose.choice((1, 2, 5, 7, 16, choose.randint(1, widest))),
            heads * choose.choice((4, 8, 11)),
            choose.choice((8, 20, 33)),
            heads,
            choose.choice((2, 17, 64, 512)),
            choose.choice((1, 2, 3)),
        ),
        choose.choice(list(SWITCHES)),
        options | {"eps": choose.choice((1e-3, 1e-3, 0.1))},
        choose.choice((0.0, 0.3, 0.6, 0.9, 1.0)),
        choose.choice((1, 2, 3, 8, 16, 64)),
        choose.choice((0.0, 0.0, 0.2, 1.0)),
        choose.choice((False, True)),
    )


def random_cases(count: int, first: int = 0) -> list[Case]:
    """`count` cases, always the same."""
    return [random_case(seed) for seed in range(first, first + count)]


def check_case(
    case: Case, implementation: str, tolerance: float = 1e-4, device: torch.device | str = "cpu", **more: Any
) -> None:
    """Labels as drawn pixel by pixel in float64, for uniforms away from boundaries; log-probabilities to rounding."""
    torch.manual_seed(case.seed)
    batch, width, labels = case.sizes[0], case.sizes[1], case.sizes[5]
    weights, terms, uniforms = random_row(*case.sizes, **SWITCHES[case.switches])
    settings = SETTINGS | case.options
    if case.imposed:
        drawn = torch.randint(labels, (batch, width))
        settings["given"] = torch.where(torch.rand(batch, width) < case.imposed, drawn, -1)
    uniforms, *_ = away_from_boundaries(weights, terms, uniforms, settings)
    expected = reference.decode_row(as_double(weights), as_double(terms), uniforms.double(), **settings)
    guess = torch.where(torch.rand(batch, width) < case.right, expected[0], torch.randint(labels, (batch, width)))
    influence = 2 * torch.randn(labels, labels) if case.influence else None  # none that helps: the row is the same
    row = each_tensor((weights, terms, uniforms, guess), lambda tensor: tensor.to(device))
    options = each_tensor(settings | {"influence": influence}, lambda tensor: tensor.to(device))
    found = settle_row(*row, window=case.window, implementation=implementation, **options, **more)
    found = each_tensor(found, torch.Tensor.cpu)
    assert torch.equal(found.labels, expected[0])
    assert expected[2] is not None and found.probabilities is not None
    torch.testing.assert_close(found.log_probs.double(), expected[1], rtol=0, atol=tolerance)
    torch.testing.assert_close(found.probabilities.double(), expected[2], rtol=0, atol=tolerance)
    assert (found.passes >= -(-width // case.window)).all() and (found.passes <= width).all()
    assert (found.computed >= width).all() and (found.computed <= found.passes * case.window).all()
