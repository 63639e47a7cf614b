# SPDX-License-Identifier: Apache-2.0
"""The work there is: multiply-adds an image, by stage, as a function of a network's configuration.

Counted are the products of matrices: every dense layer, and in attention the scores and the weighted sums, 2 D a pair
of positions. A masked pair counts where it is computed and not where it is left out. Element-wise work, embeddings
(table look-ups) and norms are not counted.

The incremental sampler computes each position once. The original's algorithm runs the inner decoder over the row for
every pixel, and the outer decoder over the image after every row but the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from coltran import networks
from coltran.networks.colorizer import Colorizer
from coltran.networks.layers import AxialAttention, AxialEncoder, ConditionalNorm, FeedForward
from coltran.networks.upsamplers import ColorUpsampler, SpatialUpsampler

FLOPS_A_MAC = 2


def build_on_paper(model: Mapping[str, Any]) -> nn.Module:
    """The network of a `model` section without memory for its weights."""
    with torch.device("meta"):
        return networks.build(model)


def parameters(model: Mapping[str, Any]) -> int:
    """How many weights the network of a `model` section has."""
    return sum(weight.numel() for weight in build_on_paper(model).parameters())


def _dense(*layers: nn.Linear | None) -> int:
    """Multiply-adds of dense layers a position."""
    return sum(layer.in_features * layer.out_features for layer in layers if layer is not None)


def _unconditioned(attention: Iterable[AxialAttention], feed_forward: Iterable[FeedForward]) -> int:
    return sum(_dense(layer.qkv, layer.out) for layer in attention) + sum(
        _dense(layer.inner, layer.outer) for layer in feed_forward
    )


def _conditioning(attention: Iterable[AxialAttention], feed_forward: Iterable[FeedForward]) -> int:
    return _dense(*(layer.condition for layer in attention), *(layer.condition for layer in feed_forward))


def _pairs(attention: Iterable[AxialAttention], *, masked_too: bool) -> int:
    """Multiply-adds of scores and weighted sums a position, averaged over the positions of a line."""
    total = 0
    for layer in attention:
        length, hidden = layer.bias.shape[1] // 2, layer.out.out_features
        keys_twice = length + 1 if layer.causal and not masked_too else 2 * length
        total += keys_twice * hidden
    return total


def _norms(norms: Iterable[nn.Module], pixels: int) -> int:
    """Multiply-adds an image of the projections in conditional norms."""
    conditional = [norm for norm in norms if isinstance(norm, ConditionalNorm)]
    return sum(_dense(norm.projection) * (pixels if norm.project_first else 1) for norm in conditional)


def _encoder(encoder: AxialEncoder) -> int:
    """Multiply-adds a pixel."""
    return _unconditioned(encoder.attention, encoder.feed_forward) + _pairs(encoder.attention, masked_too=True)


def _size(network: Colorizer) -> tuple[int, int]:
    position = network.outer_decoder.position
    return position.row.shape[0], position.column.shape[0]


def incremental(model: Mapping[str, Any]) -> dict[str, int]:
    """Multiply-adds of `coltran.sampling.sample` an image, by the stages that it reports."""
    network = build_on_paper(model)
    assert isinstance(network, Colorizer)
    height, width = _size(network)
    pixels, outer, inner = height * width, network.outer_decoder, network.inner_decoder
    outer_pixel = (
        _unconditioned(outer.attention, outer.feed_forward)
        + _conditioning(outer.attention, outer.feed_forward)
        + _pairs(outer.attention, masked_too=False)
    )
    row_pixel = (
        _unconditioned(inner.attention, inner.feed_forward)
        + _pairs(inner.attention, masked_too=False)
        + _dense(network.logits)
    )
    return {
        "encoder": pixels * _encoder(network.gray_encoder.encoder),
        "outer decoder": pixels * outer_pixel + _norms(outer.norms, pixels),
        "conditioning": pixels * _conditioning(inner.attention, inner.feed_forward) + _norms(inner.norms, pixels),
        "row decoding": pixels * row_pixel,
    }


def recomputing(model: Mapping[str, Any]) -> dict[str, int]:
    """Multiply-adds of `bench.reference.sample` an image, by the stages that it reports."""
    network = build_on_paper(model)
    assert isinstance(network, Colorizer)
    height, width = _size(network)
    pixels, outer, inner = height * width, network.outer_decoder, network.inner_decoder

    def whole(attention: Iterable[AxialAttention], feed_forward: Iterable[FeedForward]) -> int:
        parts = _unconditioned(attention, feed_forward), _conditioning(attention, feed_forward)
        return sum(parts) + _pairs(attention, masked_too=True)

    outer_image = pixels * whole(outer.attention, outer.feed_forward) + _norms(outer.norms, pixels)
    inner_row = width * whole(inner.attention, inner.feed_forward)
    return {
        "encoder": pixels * _encoder(network.gray_encoder.encoder),
        "outer decoder": (height - 1) * outer_image,
        "inner decoder": pixels * (inner_row + _dense(network.logits)) + _norms(inner.norms, pixels),
    }


def upsampler(model: Mapping[str, Any]) -> int:
    """Multiply-adds of an upsampler an image of three channels, its input maps folded into tables."""
    network = build_on_paper(model)
    assert isinstance(network, (ColorUpsampler, SpatialUpsampler))
    position = network.encoder.position
    pixels = position.row.shape[0] * position.column.shape[0]
    return 3 * pixels * (_encoder(network.encoder) + _dense(network.logits))


def step_weights(model: Mapping[str, Any]) -> int:
    """How many weights `decode_row` reads for every pixel: its matrices, the tables of positions and labels apart."""
    network = build_on_paper(model)
    assert isinstance(network, Colorizer)
    inner = network.inner_decoder
    return _unconditioned(inner.attention, inner.feed_forward) + _dense(network.logits)


def flops(macs: Mapping[str, int] | int) -> int:
    """Floating-point operations of counted multiply-adds."""
    return FLOPS_A_MAC * (macs if isinstance(macs, int) else sum(macs.values()))
