# SPDX-License-Identifier: Apache-2.0
"""Random inner decoders and row terms of any size, with every switch of `decode_row`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from coltran_kernels import DecoderLayer, DecoderWeights, RowLayer, RowTerms, reference

SETTINGS: dict[str, Any] = {
    "given": None, "mode": "sample", "temperature": 1.0, "top_p": 1.0, "eps": 1e-3, "return_probabilities": True,
}  # fmt: skip
SWITCHES = {
    "all": {},
    "added only": {"scales": False},
    "not conditioned": {"scales": False, "shifts": False},
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
    scales: bool = True,
    shifts: bool = True,
    per_image: bool = True,
    dtype: torch.dtype = torch.float32,
) -> tuple[DecoderWeights, RowTerms, Tensor]:
    """Weights, terms and uniform numbers; activations stay near one and logits spread over a few units."""

    def normal(*shape: int, std: float, mean: float = 0.0) -> Tensor:
        return (mean + std * torch.randn(shape)).to(dtype)

    def matrix(rows: int, columns: int, gain: float = 1.0) -> Tensor:
        return normal(rows, columns, std=gain * columns**-0.5)

    def pair(columns: int) -> tuple[Tensor | None, Tensor | None]:
        """Slices of one wider tensor, as a projection of the context gives them."""
        both = normal(batch, width, 2 * columns, std=0.3)
        return both[..., :columns] + 1 if scales else None, both[..., columns:] if shifts else None

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
    rows = tuple(RowLayer(*pair(3 * hidden), *pair(hidden), *norm(), *norm()) for _ in range(layers))
    return weights, RowTerms(normal(batch, width, hidden, std=0.5), rows), torch.rand(batch, width)


def each_tensor(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Weights, terms or options with each of their tensors changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: each_tensor(item, change) for name, item in value.items()}
    if not isinstance(value, tuple):
        return value
    items = (each_tensor(item, change) for item in value)
    return type(value)(*items) if hasattr(value, "_fields") else tuple(items)


def as_double(value: Any) -> Any:
    """Weights or terms with their numbers in float64."""
    return each_tensor(value, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)


def away_from_boundaries(
    weights: DecoderWeights, terms: RowTerms, uniforms: Tensor, settings: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """Uniforms in the middle of the interval of the label that `uniforms` draw: rounding cannot draw another.

    With them the labels and the probabilities, all by the specification in float64.
    """
    labels, _, probabilities = reference.decode_row(as_double(weights), as_double(terms), uniforms, **settings)
    drawn_from = probabilities ** (1 / settings["temperature"])
    drawn_from = drawn_from / drawn_from.sum(-1, keepdim=True)
    ranked, order = drawn_from.sort(dim=-1, descending=True, stable=True)
    beyond = torch.zeros_like(drawn_from, dtype=torch.bool)
    beyond.scatter_(-1, order, ranked.cumsum(-1) - ranked >= settings["top_p"])
    drawn_from = drawn_from.masked_fill(beyond, 0)
    middles = (drawn_from.cumsum(-1) - drawn_from / 2) / drawn_from.sum(-1, keepdim=True)
    return middles.gather(-1, labels[..., None])[..., 0].float(), labels, probabilities


def with_short_matrices(weights: DecoderWeights) -> DecoderWeights:
    """The same with its matrices in float16, between float32 values."""
    layers = tuple(
        layer._replace(qkv=layer.qkv.half(), out=layer.out.half(), ff1=layer.ff1.half(), ff2=layer.ff2.half())
        for layer in weights.layers
    )
    return weights._replace(layers=layers, logits=weights.logits.half())
