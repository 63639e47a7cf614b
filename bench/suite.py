# SPDX-License-Identifier: Apache-2.0
"""Operations and training steps: every implementation that can run here, beside torch's own.

    make bench                                     times everything and keeps the figures under .benchmarks/
    make bench BENCH="-k axial_attention"          one operation
    make bench BENCH="--benchmark-compare"         beside the run before, of another commit say

Each result is compared with the plain-torch specification before it is timed. Peers in attention are
`scaled_dot_product_attention` with the bias expanded to a mask, and FlexAttention, compiled, with the bias read by a
score_mod (on a CPU it has no backward).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from bench.setting import build
from bench.train_step import random_batch
from coltran.configs import colorizer as paper
from coltran.networks import model_config
from coltran.sampling.decoding import RowConditioner, decoder_weights
from coltran.training.step import start, take_step
from coltran_kernels import (
    SamplingOptions,
    add_layer_norm,
    axial_attention,
    cached_attention,
    decode_row,
    prepare_decoder,
    reference,
)
from coltran_kernels.dispatch import IMPLEMENTATIONS

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WIDTH, HEADS, CHANNELS = 64, 4, 128
HIDDEN = HEADS * CHANNELS
SDPA, FLEX = "torch SDPA", "FlexAttention"
Call = Callable[[str], Any]  # an operation by the name of its implementation
by_all = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def time_it(benchmark: Any, call: Callable[[], object]) -> None:
    """Times a call and what it set a GPU to do."""

    def run() -> None:
        call()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    benchmark(run)


def compare_and_time(benchmark: Any, call: Call, implementation: str, tolerance: float = 1e-4) -> None:
    """Times a call, after comparing it with the specification; skips where the implementation cannot serve."""
    try:
        found = call(implementation)
    except NotImplementedError as error:
        pytest.skip(str(error))
    expected = found if implementation == "reference" else call("reference")
    scale = max(float(t.abs().max()) for t in (expected if isinstance(expected, tuple) else (expected,)))
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * max(1.0, scale))
    time_it(benchmark, lambda: call(implementation))


def random(*sizes: int) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(0)).to(DEVICE)


def _lines(x: Tensor, axis: str) -> Tensor:
    """[B, H, W, h, C] -> [lines, h, L, C]; a view where torch can make one."""
    return (x if axis == "row" else x.transpose(1, 2)).flatten(0, 1).transpose(1, 2)


def _pixels(x: Tensor, like: Tensor, axis: str) -> Tensor:
    """The inverse of `_lines`."""
    x = x.transpose(1, 2).unflatten(0, (like.shape[0], -1))
    return x if axis == "row" else x.transpose(1, 2)


def sdpa(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, *, axis: str, causal: bool) -> Tensor:
    """`axial_attention` written directly with torch's own."""
    mask = reference.relative_bias(bias)
    if causal:
        mask = mask.masked_fill(torch.ones_like(mask[0], dtype=torch.bool).triu(1), float("-inf"))
    out = F.scaled_dot_product_attention(_lines(q, axis), _lines(k, axis), _lines(v, axis), attn_mask=mask)
    return _pixels(out, q, axis)


compiled_flex = torch.compile(flex_attention, dynamic=False)


def flex(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, *, axis: str) -> Tensor:
    """`axial_attention` without a mask by FlexAttention."""
    length = bias.shape[1] // 2

    def add_bias(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score + bias[head, key - query + length - 1]

    return _pixels(compiled_flex(_lines(q, axis), _lines(k, axis), _lines(v, axis), score_mod=add_bias), q, axis)


@pytest.mark.parametrize("length", [64, 256])
@pytest.mark.parametrize("train", [False, True], ids=["forward", "and-backward"])
@pytest.mark.parametrize(("axis", "causal"), [("row", False), ("row", True), ("column", False), ("column", True)])
@pytest.mark.parametrize("implementation", [*IMPLEMENTATIONS, SDPA, FLEX])
def test_axial_attention(
    benchmark: Any, implementation: str, axis: str, causal: bool, train: bool, length: int
) -> None:
    whole = random(1, length, length, 3, HEADS, CHANNELS)  # parts of one product, as in the networks
    q, k, v = (t.requires_grad_(train) for t in whole.unbind(3))
    bias = random(HEADS, 2 * length).requires_grad_(train)

    def call(name: str) -> tuple[Tensor, ...]:
        if name == FLEX and (causal or (train and DEVICE.type == "cpu")):
            raise NotImplementedError("FlexAttention is timed without a mask, and has no backward on a CPU")
        if name == SDPA:
            out = sdpa(q, k, v, bias, axis=axis, causal=causal)
        elif name == FLEX:
            out = flex(q, k, v, bias, axis=axis)
        else:
            out = axial_attention(q, k, v, bias, axis=axis, causal=causal, implementation=name)
        return torch.autograd.grad(out.square().sum(), (q, k, v, bias)) if train else (out,)

    compare_and_time(benchmark, call, implementation, tolerance=1e-3)


@by_all
@pytest.mark.parametrize("conditional", [False, True])
@torch.no_grad()
def test_add_layer_norm(benchmark: Any, implementation: str, conditional: bool) -> None:
    x, residual = random(2, 1, WIDTH, WIDTH, HIDDEN)
    scale, shift = random(2, 1, 1, 1, HIDDEN) if conditional else random(2, HIDDEN)
    compare_and_time(
        benchmark, lambda name: add_layer_norm(x, residual, scale, shift, implementation=name), implementation
    )


@by_all
@pytest.mark.parametrize("rows", [1, 64])
@torch.no_grad()
def test_cached_attention(benchmark: Any, implementation: str, rows: int) -> None:
    q, bias = random(1, WIDTH, HEADS, CHANNELS), random(HEADS, rows)
    keys, values = random(2, 1, rows, WIDTH, HEADS, CHANNELS)
    compare_and_time(
        benchmark, lambda name: cached_attention(q, keys, values, bias, implementation=name), implementation
    )


@by_all
@pytest.mark.parametrize("batch", [1, 8, 20, 32])
@torch.no_grad()
def test_decode_row(benchmark: Any, implementation: str, batch: int) -> None:
    network: Any = build(model_config(paper.get_config()), DEVICE)
    rows = RowConditioner(network.inner_decoder, random(batch, WIDTH, WIDTH, HIDDEN), norm="exact")
    terms = rows.condition(0, random(batch, WIDTH, HIDDEN))
    weights, uniforms = decoder_weights(network), torch.full((batch, WIDTH), 0.5, device=DEVICE)
    # Labels are imposed, so that rounding at a boundary cannot lead to another row; what is compared is the
    # probability of each.
    given = torch.arange(WIDTH, device=DEVICE).expand(batch, WIDTH).contiguous()

    prepared: dict[str, Any] = {}

    def call(name: str) -> Tensor:
        if name not in prepared:
            prepared[name] = prepare_decoder(weights, implementation=name)
        options = SamplingOptions(given=given)
        return decode_row(weights, terms, uniforms, options, implementation=name, prepared=prepared[name])[1]

    compare_and_time(benchmark, call, implementation, tolerance=1e-3)


@pytest.mark.parametrize("name", ["small_colorizer", "small_color_upsampler", "small_spatial_upsampler"])
def test_train_step(benchmark: Any, name: str) -> None:
    config = importlib.import_module(f"coltran.configs.{name}").get_config()
    config.batch_size = 1
    training = start(config, seed=0, device=DEVICE)
    batch = random_batch(training, 1)
    losses = take_step(training, batch)
    assert all(bool(loss.isfinite()) for loss in losses.values())
    time_it(benchmark, lambda: take_step(training, batch))
