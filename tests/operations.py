# SPDX-License-Identifier: Apache-2.0
"""What the conformance suites of the operations share: inputs of any size, error budgets, where each computes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from coltran_kernels import DecoderLayer, DecoderWeights, RowConditioning, RowLayer, SamplingOptions, native, reference

ON_XLA = importlib.util.find_spec("torch_xla") is not None
TARGETS = native.targets() if native.unavailable() is None else []  # the instruction sets of this processor
NATIVE = [f"native {target}" for target in TARGETS]
needs_native = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
TRITON = pytest.param("triton", marks=pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="no Triton"))


def device_of(implementation: str) -> torch.device:
    """Where an implementation computes: XLA's on its device where torch_xla is there, else as plain torch."""
    if implementation == "xla" and ON_XLA:
        import torch_xla  # type: ignore[import-not-found]

        return torch_xla.device()
    return torch.device("cuda" if implementation == "triton" and torch.cuda.is_available() else "cpu")


def assert_within_budget(found: dict[str, Tensor], plain: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    """Each result is at most twice as far from the exact one, in norm, as plain torch's of the same dtype is.

    In norm, since the largest of some thousand rounding errors varies by itself: docs/notes/log.md has both.
    Plain torch may happen to be exact (one pixel attends to itself alone), so one rounding is always allowed.
    """
    for name, result in found.items():
        rounding = torch.finfo(result.dtype).eps * exact[name].norm()
        allowed = 2 * (plain[name].double() - exact[name]).norm() + rounding
        error = (result.double() - exact[name]).norm()
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"


def with_gradients(out: Tensor, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """The output ("out"), and the gradient of each leaf for one fixed gradient of the output, all on the CPU."""
    weights = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(out, list(leaves.values()), weights.bfloat16().to(out))
    found = {"out": out.detach()} | dict(zip(leaves, gradients, strict=True))
    return {name: tensor.cpu() for name, tensor in found.items()}


# Attention.

OPERANDS = ("q", "q_scale", "q_shift", "k", "k_scale", "k_shift", "v", "v_scale", "v_shift", "bias")


def make_operands(
    length: int,
    channels: int,
    axis: str,
    *,
    bias: bool = True,
    conditioned: str = "qkv",
    batch: int = 2,
    lines: int = 2,
) -> dict[str, Tensor]:
    """Random float64 operands of 2 heads; q, k and v are strided views of one tensor, the scales of another.

    Scales and shifts are there for those of q, k and v that `conditioned` names.
    """
    height, width = (lines, length) if axis == "row" else (length, lines)
    whole = torch.randn(batch, height, width, 3, 2, channels, dtype=torch.float64)
    operands = dict(zip("qkv", whole.unbind(3), strict=True))
    for name in conditioned:
        both = torch.randn(batch, height, width, 2, 2, channels, dtype=torch.float64)
        operands[f"{name}_scale"], operands[f"{name}_shift"] = 1 + 0.5 * both[..., 0, :], both[..., 1, :]
    if bias:
        operands["bias"] = torch.randn(2, 2 * length, dtype=torch.float64)
    return operands


# A row of the inner decoder.

SETTINGS = SamplingOptions(return_probabilities=True)
SWITCHES: dict[str, dict[str, Any]] = {
    "all": {},
    "added only": {"absent": "qkv_scale ff_scale"},
    "attention only": {"absent": "ff_scale ff_shift qkv_shift"},
    "feed-forward only": {"absent": "qkv_scale qkv_shift"},
    "not conditioned": {"absent": "qkv_scale qkv_shift ff_scale ff_shift"},
    "plain norms": {"per_image": False},
}


def random_row(
    batch: int,
    width: int,
    hidden: int,
    feed_forward: int,
    heads: int,
    labels: int,
    layers: int,
    *,
    absent: str = "",
    per_image: bool = True,
    dtype: torch.dtype = torch.float32,
) -> tuple[DecoderWeights, RowConditioning, Tensor]:
    """Weights, terms and uniform numbers; activations stay near one and logits spread over a few units."""

    def normal(*shape: int, std: float, mean: float = 0.0) -> Tensor:
        return (mean + std * torch.randn(shape)).to(dtype)

    def matrix(rows: int, columns: int, gain: float = 1.0) -> Tensor:
        return normal(rows, columns, std=gain * columns**-0.5)

    def pair(name: str, columns: int) -> tuple[Tensor | None, Tensor | None]:
        """Slices of one wider tensor, as a projection of the context gives them."""
        both = normal(batch, width, 2 * columns, std=0.3)
        scale, shift = both[..., :columns] + 1, both[..., columns:]
        return None if f"{name}_scale" in absent else scale, None if f"{name}_shift" in absent else shift

    def norm() -> tuple[Tensor, Tensor]:
        shape = (batch, hidden) if per_image else (hidden,)
        return normal(*shape, std=0.2, mean=1.0), normal(*shape, std=0.2)

    weights = DecoderWeights(
        embedding=normal(labels, hidden, std=1.0),
        layers=tuple(
            DecoderLayer(
                qkv=matrix(3 * hidden, hidden),
                bias=normal(heads, 2 * width, std=0.5),
                out=matrix(hidden, hidden),
                ff1=matrix(feed_forward, hidden),
                ff1_bias=normal(feed_forward, std=0.2),
                ff2=matrix(hidden, feed_forward),
                ff2_bias=normal(hidden, std=0.2),
            )
            for _ in range(layers)
        ),
        norm_weight=normal(hidden, std=0.2, mean=1.0),
        norm_bias=normal(hidden, std=0.2),
        logits=matrix(labels, hidden, gain=2.0),
        logits_bias=normal(labels, std=0.5),
    )
    rows = tuple(RowLayer(*pair("qkv", 3 * hidden), *pair("ff", hidden), *norm(), *norm()) for _ in range(layers))
    return weights, RowConditioning(normal(batch, width, hidden, std=0.5), rows), torch.rand(batch, width)


def each_tensor(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Weights, terms or options with each of their tensors changed."""
    return tree_map(lambda item: change(item) if isinstance(item, Tensor) else item, value)


def as_double(value: Any) -> Any:
    """Weights or terms with their numbers in float64."""
    return each_tensor(value, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)


def away_from_boundaries(
    weights: DecoderWeights, terms: RowConditioning, uniforms: Tensor, settings: SamplingOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """Uniforms in the middle of the interval of the label that `uniforms` draw: rounding cannot draw another.

    With them the labels and the probabilities, all by the specification in float64.
    """
    drawn = reference.decode_row(as_double(weights), as_double(terms), uniforms, settings)
    labels, probabilities, guidance = drawn.labels, drawn.probabilities, settings.guidance
    assert probabilities is not None
    drawn_from = probabilities if guidance is None else probabilities * guidance.double().exp()
    drawn_from = drawn_from ** (1 / settings.temperature)
    drawn_from = drawn_from / drawn_from.sum(-1, keepdim=True)
    ranked, order = drawn_from.sort(dim=-1, descending=True, stable=True)
    beyond = torch.zeros_like(drawn_from, dtype=torch.bool)
    beyond.scatter_(-1, order, ranked.cumsum(-1) - ranked >= settings.top_p)
    drawn_from = drawn_from.masked_fill(beyond, 0)
    middles = (drawn_from.cumsum(-1) - drawn_from / 2) / drawn_from.sum(-1, keepdim=True)
    return middles.gather(-1, labels[..., None])[..., 0].float(), labels, probabilities
