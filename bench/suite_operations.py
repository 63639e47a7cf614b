# SPDX-License-Identifier: Apache-2.0
"""The operations of coltran_kernels at the paper's sizes, with every implementation that can run here.

    make bench                                     times everything and keeps the figures under .benchmarks/
    make bench BENCH="--benchmark-compare"         beside the run before, of another commit say

Each result is compared with the plain-torch specification before it is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.setting import build
from coltran.configs import colorizer as paper
from coltran.networks import model_config
from coltran.sampling.decoding import InnerRows, decoder_weights
from coltran_kernels import add_layer_norm, axial_attention, cached_attention, decode_row
from coltran_kernels.ops import IMPLEMENTATIONS

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WIDTH, HEADS, CHANNELS = 64, 4, 128
HIDDEN = HEADS * CHANNELS
Call = Callable[[str], Any]  # an operation by the name of its implementation


def time_it(benchmark: Any, call: Call, implementation: str, tolerance: float = 1e-4) -> None:
    """Times a call, after comparing it with the specification; skips where the implementation cannot serve."""
    try:
        found = call(implementation)
    except NotImplementedError as error:
        pytest.skip(str(error))
    expected = call("reference")
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)

    def run() -> None:
        call(implementation)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    benchmark(run)


def random(*sizes: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*sizes, generator=generator).to(DEVICE)


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize(("axis", "causal"), [("row", False), ("row", True), ("column", False), ("column", True)])
@torch.no_grad()
def test_axial_attention(benchmark: Any, implementation: str, axis: str, causal: bool) -> None:
    q, k, v = random(3, 1, WIDTH, WIDTH, HEADS, CHANNELS)
    bias = random(HEADS, 2 * WIDTH)
    time_it(
        benchmark,
        lambda name: axial_attention(q, k, v, bias, axis=axis, causal=causal, implementation=name),
        implementation,
    )


@pytest.mark.parametrize("axis", ["row", "column"])
def test_axial_attention_and_its_gradients(benchmark: Any, implementation: str, axis: str) -> None:
    q, k, v = (t.requires_grad_() for t in random(3, 1, WIDTH, WIDTH, HEADS, CHANNELS).unbind())
    bias = random(HEADS, 2 * WIDTH).requires_grad_()

    def call(name: str) -> tuple[Tensor, ...]:
        out = axial_attention(q, k, v, bias, axis=axis, causal=False, implementation=name)
        return torch.autograd.grad(out.square().sum(), (q, k, v, bias))

    time_it(benchmark, call, implementation, tolerance=1e-3)


@pytest.mark.parametrize("conditional", [False, True])
@torch.no_grad()
def test_add_layer_norm(benchmark: Any, implementation: str, conditional: bool) -> None:
    x, residual = random(2, 1, WIDTH, WIDTH, HIDDEN)
    scale, shift = random(2, 1, 1, 1, HIDDEN) if conditional else random(2, HIDDEN)
    time_it(benchmark, lambda name: add_layer_norm(x, residual, scale, shift, implementation=name), implementation)


@pytest.mark.parametrize("rows", [1, 64])
@torch.no_grad()
def test_cached_attention(benchmark: Any, implementation: str, rows: int) -> None:
    q, bias = random(1, WIDTH, HEADS, CHANNELS), random(HEADS, rows)
    keys, values = random(2, 1, rows, WIDTH, HEADS, CHANNELS)
    time_it(benchmark, lambda name: cached_attention(q, keys, values, bias, implementation=name), implementation)


@pytest.mark.parametrize("batch", [1, 8, 20])
@torch.no_grad()
def test_decode_row(benchmark: Any, implementation: str, batch: int) -> None:
    network: Any = build(model_config(paper.get_config()), DEVICE, torch.float32)
    rows = InnerRows(network.inner_decoder, random(batch, WIDTH, WIDTH, HIDDEN), norm="exact")
    terms = rows.terms(0, random(batch, WIDTH, HIDDEN))
    weights, uniforms = decoder_weights(network), torch.full((batch, WIDTH), 0.5, device=DEVICE)
    # Labels are imposed, so that rounding at a boundary cannot lead to another row; what is compared is the
    # probability of each.
    given = torch.arange(WIDTH, device=DEVICE).expand(batch, WIDTH).contiguous()

    def call(name: str) -> Tensor:
        return decode_row(weights, terms, uniforms, given=given, implementation=name)[1]

    time_it(benchmark, call, implementation, tolerance=1e-3)
