# SPDX-License-Identifier: Apache-2.0
"""Operations, the paper's colorizer and training steps: every implementation that can run here, beside torch's own.

    make bench                                     times everything and keeps the figures under .benchmarks/
    make bench BENCH="-k axial_attention"          one operation
    make bench BENCH="--benchmark-compare"         beside the run before, of another commit say

Each result is compared with the plain-torch specification before it is timed. Peers in attention are
`scaled_dot_product_attention` with the bias expanded to a mask, and FlexAttention, compiled, with the bias read by a
score_mod (on a CPU it has no backward); of the colorizer, the same network written directly in plain torch.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from bench.setting import build, random_images
from bench.train_step import random_batch
from coltran.configs import colorizer as paper
from coltran.networks import layers, model_config
from coltran.networks.dense import Dense
from coltran.networks.losses import compute_losses
from coltran.sampling.decoding import InnerRows, decoder_weights
from coltran.training.step import start, take_step
from coltran_kernels import (
    add_layer_norm,
    affine,
    axial_attention,
    cached_attention,
    decode_row,
    packed_attention,
    prepare_decoder,
    reference,
    takes_bfloat16,
)
from coltran_kernels.choose import IMPLEMENTATIONS
from coltran_kernels.cpu import linear as dense
from coltran_kernels.cpu import trained

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WIDTH, HEADS, CHANNELS = 64, 4, 128
HIDDEN = HEADS * CHANNELS
SDPA, FLEX, PLAIN = "torch SDPA", "FlexAttention", "plain torch"
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


def sdpa(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, *, axis: str, causal: bool, **terms: Any) -> Tensor:
    """`axial_attention` written directly with torch's own."""
    q, k, v = (
        affine(x, terms.get(f"{c}_scale"), terms.get(f"{c}_shift")) for c, x in zip("qkv", (q, k, v), strict=True)
    )
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


@pytest.mark.skipif(not takes_bfloat16(DEVICE.type, 128), reason="nothing multiplies bfloat16 inside attention here")
@pytest.mark.parametrize(("batch", "length", "heads", "channels"), [(2, 256, 2, 32), (1, 256, 4, 128), (8, 64, 4, 32)])
@pytest.mark.parametrize("train", [False, True], ids=["forward", "and-backward"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_packed_attention(
    benchmark: Any, precision: str, train: bool, batch: int, length: int, heads: int, channels: int
) -> None:
    qkv = random(batch, length, length, 3 * heads * channels).to(getattr(torch, precision)).requires_grad_(train)
    bias = random(heads, 2 * length).requires_grad_(train)

    def call(name: str) -> tuple[Tensor, ...]:
        operand = qkv.float() if name == "reference" else qkv
        out = packed_attention(
            operand, None, bias, axis="row", causal=False, conditioned="", scaled=False, implementation=name
        )
        found = torch.autograd.grad(out.float().sum(), (qkv, bias)) if train else (out,)
        return tuple(t.float() for t in found)

    own = "triton" if DEVICE.type == "cuda" else "cpu"
    compare_and_time(benchmark, call, own, tolerance=1e-3 if precision == "float32" else 2**-6)


@by_all
@pytest.mark.parametrize("conditional", [False, True])
@torch.no_grad()
def test_add_layer_norm(benchmark: Any, implementation: str, conditional: bool) -> None:
    x, residual = random(2, 1, WIDTH, WIDTH, HIDDEN)
    scale, shift = random(2, 1, 1, 1, HIDDEN) if conditional else random(2, HIDDEN)
    compare_and_time(
        benchmark, lambda name: add_layer_norm(x, residual, scale, shift, implementation=name), implementation
    )


@pytest.mark.parametrize("form", ["torch", "packed"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("outputs", [HIDDEN, 3 * HIDDEN])
@pytest.mark.parametrize("rows", [1, 8, 64, 256, 1024, 4096])
def test_dense(benchmark: Any, rows: int, outputs: int, precision: str, form: str) -> None:
    """torch's product, or packed as the sampler does; in bfloat16 both from and to float32."""
    if (reason := dense.why_not(precision)) is not None:
        pytest.skip(reason)
    x, weight = torch.randn(rows, HIDDEN), torch.randn(outputs, HIDDEN)
    layer = dense.lay_out(weight, None, precision, form)
    benchmark.extra_info["gflop"] = 2e-9 * rows * outputs * HIDDEN
    time_it(benchmark, lambda: layer.multiply(x))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
@pytest.mark.parametrize("way", trained.WAYS)
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(16384, 128, 384), (4096, 512, 512), (4096, 512, 1536)])
def test_dense_in_training(benchmark: Any, rows: int, inputs: int, outputs: int, way: str) -> None:
    """Forward and both gradients, by torch or by oneDNN where that serves."""
    operands = [torch.randn(shape, requires_grad=True) for shape in ((rows, inputs), (outputs, inputs), (outputs,))]
    grad = torch.randn(rows, outputs)

    def gradients(linear: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(linear(*operands, False), operands, grad)

    linear_of = trained.linear if way == "oneDNN" else reference.linear
    torch.testing.assert_close(gradients(linear_of), gradients(reference.linear), rtol=1e-4, atol=1e-3)
    benchmark.extra_info["gflop"] = 6e-9 * rows * inputs * outputs
    time_it(benchmark, lambda: gradients(linear_of))


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
    rows = InnerRows(network.inner_decoder, random(batch, WIDTH, WIDTH, HIDDEN), norm="exact")
    terms = rows.terms(0, random(batch, WIDTH, HIDDEN))
    weights, uniforms = decoder_weights(network), torch.full((batch, WIDTH), 0.5, device=DEVICE)
    # Labels are imposed, so that rounding at a boundary cannot lead to another row; what is compared is the
    # probability of each.
    given = torch.arange(WIDTH, device=DEVICE).expand(batch, WIDTH).contiguous()

    prepared: dict[str, Any] = {}

    def call(name: str) -> Tensor:
        if name not in prepared:
            prepared[name] = prepare_decoder(weights, implementation=name)
        return decode_row(weights, terms, uniforms, given=given, implementation=name, prepared=prepared[name])[1]

    compare_and_time(benchmark, call, implementation, tolerance=1e-3)


@pytest.mark.parametrize("form", ["torch", "packed"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch", [1, 8, 20, 32])
@torch.no_grad()
def test_products_of_a_row(benchmark: Any, batch: int, precision: str, form: str) -> None:
    """What `decode_row` multiplies for a row, and nothing else, by a library's products: one call each."""
    if (reason := dense.why_not(precision)) is not None:
        pytest.skip(reason)
    network: Any = build(model_config(paper.get_config()), torch.device("cpu"))
    weights = decoder_weights(network)
    matrices = [m for layer in weights.layers for m in (layer.qkv, layer.out, layer.ff1, layer.ff2)]
    matrices = [*matrices[1:], weights.logits]  # the first layer's queries, keys and values come from a table
    products = [dense.lay_out(matrix, None, precision, form) for matrix in matrices]
    inputs = [torch.randn(batch, matrix.shape[1]).to(dense.TYPES[precision]) for matrix in matrices]

    def row() -> None:
        for _ in range(WIDTH):
            for layer, x in zip(products, inputs, strict=True):
                layer.product(x)

    time_it(benchmark, row)


def plain_norm(x: Tensor, residual: Tensor | None, scale: Tensor, shift: Tensor, eps: float, **_: Any) -> Tensor:
    """`add_layer_norm` written directly with torch's own."""
    x = x if residual is None else x + residual
    if scale.dim() == 1:
        return F.layer_norm(x, x.shape[-1:], scale, shift, eps)
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=eps), scale)


def plain_dense(layer: Dense, x: Tensor, *, relu: bool = False, **_: Any) -> Tensor:
    """`Dense.forward` written directly with torch's own."""
    return reference.linear(x, layer.weight, layer.bias, relu)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("train", [False, True], ids=["forward", "and-backward"])
@pytest.mark.parametrize("implementation", ["default", PLAIN])
def test_the_papers_colorizer(benchmark: Any, implementation: str, train: bool, batch: int) -> None:
    config = paper.get_config()
    network, rgb = build(config.model, DEVICE), random_images(batch, config.model, DEVICE)

    def call(name: str) -> Tensor:
        with contextlib.ExitStack() as stack:
            if name == PLAIN:
                stack.enter_context(mock.patch.object(layers, "axial_attention", sdpa))
                stack.enter_context(mock.patch.object(layers, "add_layer_norm", plain_norm))
                stack.enter_context(mock.patch.object(Dense, "forward", plain_dense))
            stack.enter_context(torch.set_grad_enabled(train))
            loss = compute_losses(network, {"rgb": rgb}, config, training=train)["total_loss"]
            if train:
                network.zero_grad()
                loss.backward()
            return loss.detach()

    torch.testing.assert_close(call("default"), call(PLAIN), rtol=1e-4, atol=1e-4)
    time_it(benchmark, lambda: call(implementation))


@pytest.mark.parametrize("name", ["small_colorizer", "small_color_upsampler", "small_spatial_upsampler"])
def test_train_step(benchmark: Any, name: str) -> None:
    config = importlib.import_module(f"coltran.configs.{name}").get_config()
    config.batch_size = 1
    training = start(config, seed=0, device=DEVICE)
    batch = random_batch(training, 1)
    losses = take_step(training, batch)
    assert all(bool(loss.isfinite()) for loss in losses.values())
    time_it(benchmark, lambda: take_step(training, batch))
