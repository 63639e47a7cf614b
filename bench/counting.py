# SPDX-License-Identifier: Apache-2.0
"""The work there is: multiply-adds an image, by stage, as a function of a network's configuration.

torch's FlopCounterMode counts the products of matrices in the specification's operations, on networks without memory.
Element-wise work, embeddings (table look-ups) and norms are not counted, nor what the sampler leaves out: the pairs of
positions that a mask hides, 2 D multiply-adds each.

The incremental sampler computes each position once. The original's algorithm runs the inner decoder over the row for
every pixel, and the outer decoder over the image after every row but the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.recomputing import inner_decoder_row, norm_affines
from coltran import networks
from coltran.networks.colorizer import Colorizer
from coltran.networks.layers import AxialAttention
from coltran.networks.upsamplers import ColorUpsampler
from coltran.sampling.decoding import RowConditioner, decoder_weights

PLAIN = "reference"


def multiply_adds(call: Callable[[], object]) -> int:
    """Those of the matrix products in a call."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return counter.get_total_flops() // 2


def flops(macs: Mapping[str, int] | int) -> int:
    """Floating-point operations of counted multiply-adds."""
    return 2 * (macs if isinstance(macs, int) else sum(macs.values()))


def _on_paper(model: Mapping[str, Any]) -> tuple[nn.Module, Tensor]:
    """The network of a `model` section and a gray image, neither with memory."""
    with torch.device("meta"):
        return networks.build(model).eval(), torch.zeros(1, *model["resolution"], dtype=torch.int64)


def _hidden_pairs(attention: Iterable[AxialAttention], pixels: int) -> int:
    """Multiply-adds an image of the pairs that a mask hides: half of the others of a line."""
    causal = [layer for layer in attention if layer.causal]
    return sum(pixels * (layer.bias.shape[1] // 2 - 1) * layer.out.out_features for layer in causal)


def _colorizer(model: Mapping[str, Any]) -> tuple[Colorizer, Tensor, Tensor, Tensor]:
    """The colorizer, a gray image, that image encoded, and embedded colours."""
    network, gray = _on_paper(model)
    assert isinstance(network, Colorizer)
    z = network.encode(gray, implementation=PLAIN)
    return network, gray, z, z.new_empty(*gray.shape, network.embedding.embedding_dim)


def incremental(model: Mapping[str, Any]) -> dict[str, int]:
    """Multiply-adds of `coltran.sampling.sample` an image, by the stages that it reports."""
    network, gray, z, e = _colorizer(model)
    outer, inner, pixels = network.outer_decoder, network.inner_decoder, gray.numel()
    rows = RowConditioner(inner, z, norm="exact")
    a_row = multiply_adds(lambda: rows.condition(0, e[:, 0], implementation=PLAIN))
    conditioning = multiply_adds(lambda: norm_affines(inner, z)) + gray.shape[1] * a_row
    everything = multiply_adds(lambda: network.logits(inner(e, e, z, implementation=PLAIN), implementation=PLAIN))
    return {
        "encoder": multiply_adds(lambda: network.encode(gray, implementation=PLAIN)),
        "outer decoder": multiply_adds(lambda: outer(e, z, implementation=PLAIN))
        - _hidden_pairs(outer.attention, pixels),
        "conditioning": conditioning,
        "row decoding": everything - conditioning - _hidden_pairs(inner.attention, pixels),
    }


def recomputing(model: Mapping[str, Any]) -> dict[str, int]:
    """Multiply-adds of `bench.recomputing.sample` an image, by the stages that it reports."""
    network, gray, z, e = _colorizer(model)
    inner, norms = network.inner_decoder, norm_affines(network.inner_decoder, z)

    def pixel() -> None:
        x = inner_decoder_row(inner, 0, e[:, :1], e[:, :1], z[:, :1], norms, PLAIN)
        network.logits(x[:, 0, 0], implementation=PLAIN)

    return {
        "encoder": multiply_adds(lambda: network.encode(gray, implementation=PLAIN)),
        "outer decoder": (gray.shape[1] - 1) * multiply_adds(lambda: network.outer_decoder(e, z, implementation=PLAIN)),
        "inner decoder": gray.numel() * multiply_adds(pixel) + multiply_adds(lambda: norm_affines(inner, z)),
    }


def upsampler(model: Mapping[str, Any]) -> int:
    """Multiply-adds of an upsampler an image of three channels, its input maps folded into tables once a network."""
    network, gray = _on_paper(model)
    folding = cast("ColorUpsampler", network).tables  # which both upsamplers have
    channels = gray[..., None].expand(-1, -1, -1, 3)
    return multiply_adds(lambda: network(channels, gray, implementation=PLAIN)) - multiply_adds(folding)


def training_step(model: Mapping[str, Any]) -> int:
    """Multiply-adds of a step of training an image: the forward, and twice as many for the gradients of its products.

    Pairs that a mask hides do not count; an upsampler learns one channel an image, its input maps folded into tables.
    """
    network, gray = _on_paper(model)
    if not isinstance(network, Colorizer):
        return upsampler(model)  # a third of it, three times
    masked = (*network.outer_decoder.attention, *network.inner_decoder.attention)
    forward = multiply_adds(lambda: network(gray[..., None].expand(-1, -1, -1, 3), implementation=PLAIN))
    return 3 * (forward - _hidden_pairs(masked, gray.numel()))


def step_weights(model: Mapping[str, Any]) -> int:
    """How many weights `decode_row` reads for every pixel: its matrices, the tables of positions and labels apart."""
    network, _ = _on_paper(model)
    assert isinstance(network, Colorizer)
    weights = decoder_weights(network)
    matrices = [m for layer in weights.layers for m in (layer.qkv, layer.out, layer.ff1, layer.ff2)]
    return sum(matrix.numel() for matrix in (*matrices, weights.logits))
