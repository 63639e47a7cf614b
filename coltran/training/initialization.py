# SPDX-License-Identifier: Apache-2.0
"""Initial weights for short trainings.

The original's initial weights give every gray level and every colour a vector of its own, unrelated to its neighbours',
and random logits. In a long training that does not matter. In the first hundreds of steps it does: the network has to
learn 256 gray levels one by one, and the gradient that all pixels share, towards the frequencies of the colours, drives
the encoder towards a constant (figures: docs/notes/log.md). `prepare` starts a colorizer at those frequencies, with
embeddings in which like values have like vectors.

An upsampler predicts values that are near those it is given, so there more can be said beforehand: a channel's value,
the gray level and the 256 logits share one set of features of a level, what the layers add to them starts small, and
heads of attention start by averaging over neighbourhoods of several sizes. The first prediction is the neighbourhood
of the two values given.

A guide starts from what a pretrained network sees, `load_features`, and from the table of labels by gray level.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from coltran.image import colors_to_labels, labels_to_colors, rgb_to_gray, to_bits
from coltran.networks.colorizer import LABELS, Colorizer
from coltran.networks.guide import GRAYS, Convolution, Guide, InvertedResidual
from coltran.networks.upsamplers import ColorUpsampler, SpatialUpsampler
from coltran.training.pretrained import lite_weights

SIGMA = 3.0  # gray levels, over which a guide's table is smoothed
NORM_EPS = 1e-3  # in the batch norms of EfficientNet-Lite0
AMPLITUDE = math.sqrt(0.5)  # of the cosines, which gives the features a standard deviation of 1/2


def smooth_(table: Tensor, points: Tensor) -> None:
    """Fill an embedding table [N, D] with random cosine features of its symbols' coordinates [N, k].

    Feature d is a cosine of `points @ w_d` with w_d standard normal and a random phase (Rahimi and Recht, 2007), so
    symbols nearer than about 1 have similar vectors.
    """
    directions = torch.randn(points.shape[1], table.shape[1])
    phases = 2 * math.pi * torch.rand(table.shape[1])
    table.copy_(AMPLITUDE * torch.cos(points @ directions + phases))


def smooth_embeddings(network: Colorizer) -> None:
    """Fill the embedding tables of a colorizer; torch's generator decides."""
    smooth_(network.gray_encoder.embedding.weight, torch.arange(256.0)[:, None] / 10)  # 10 levels apart is one unit
    smooth_(network.embedding.weight, labels_to_colors(torch.arange(LABELS)) / 85)


def start_at_inputs(network: ColorUpsampler | SpatialUpsampler) -> None:
    """Let an upsampler predict, before any training, values near the channel's and the gray level it is given.

    Feature d of a level v is `cos(v / length_d + phase_d)`, with lengths from 5 to 150 levels and random phases. They
    are the embeddings (a channel's with a vector of its own added) and the rows of the head. The input layer takes
    the mean of both embeddings, what attention and feed-forward add is scaled down to 0.3, and so are queries and
    keys; the bias of attention falls linearly with the distance, within 1 to 8 pixels of 64 by the head.
    """
    hidden = network.gray_embedding.weight.shape[1]
    lengths = torch.logspace(math.log10(5), math.log10(150), hidden)
    phases = 2 * math.pi * torch.rand(hidden)

    def features(levels: Tensor) -> Tensor:
        return math.sqrt(2) * torch.cos(levels[:, None] / lengths + phases)

    levels, width = torch.arange(256.0), 256 / network.levels
    of_channel = features(width * torch.arange(network.levels) + (width - 1) / 2)
    network.gray_embedding.weight.copy_(features(levels))
    network.channel_embedding.weight.copy_(torch.cat([of_channel + 0.5 * torch.randn(hidden) for _ in range(3)]))
    network.logits.weight.copy_(2 / math.sqrt(hidden) * features(levels))
    network.input.weight.mul_(0.3).add_((0.5 * torch.eye(hidden).repeat(1, 2)).to(network.input.weight))
    encoder = network.encoder
    for attention, feed_forward in zip(encoder.attention, encoder.feed_forward, strict=True):
        attention.out.weight.mul_(0.3)
        feed_forward.outer.weight.mul_(0.3)
        attention.qkv.weight[: 2 * hidden].mul_(0.3)
        heads, length = attention.heads, attention.bias.shape[1] // 2
        distance = (torch.arange(2 * length) - (length - 1)).abs()
        attention.bias.copy_(-distance / (torch.logspace(0, 3, heads, base=2)[:, None] * length / 64))


def start_at_frequencies(head: nn.Linear, counts: Tensor) -> None:
    """Let the bias of logits [..., S] be that of the frequencies of `counts` [S], add-one smoothed."""
    head.bias.copy_(((counts + 1) / (counts + 1).sum()).log())


def count_symbols(network: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> Tensor:
    """How often each symbol that the network predicts occurs: int64 [512] for the colorizer, else [256]."""
    colorizer = isinstance(network, Colorizer)
    counts = torch.zeros(LABELS if colorizer else 256, dtype=torch.int64)
    for batch in batches:
        rgb = batch["rgb"]
        symbols = colors_to_labels(to_bits(rgb, 8, 3)) if colorizer else rgb
        counts += torch.bincount(symbols.flatten(), minlength=len(counts))
    return counts


def gray_table(batches: Iterable[Mapping[str, Tensor]]) -> Tensor:
    """log q(label | gray level), float32 [256, 512]: counts smoothed along gray (sigma 3), plus 0.01, normed."""
    counts = torch.zeros(GRAYS * LABELS, dtype=torch.float64)
    for batch in batches:
        labels = colors_to_labels(to_bits(batch["rgb"], 8, 3))
        cells = rgb_to_gray(batch["rgb"]).long() * LABELS + labels
        counts += torch.bincount(cells.flatten(), minlength=GRAYS * LABELS)
    distance = torch.arange(GRAYS, dtype=torch.float64)[:, None] - torch.arange(GRAYS, dtype=torch.float64)
    kernel = torch.exp(-(distance**2) / (2 * SIGMA**2))
    smoothed = (kernel / kernel.sum(1, keepdim=True)) @ counts.view(GRAYS, LABELS) + 0.01
    return (smoothed / smoothed.sum(1, keepdim=True)).log().float()


def load_features(guide: Guide) -> None:
    """Give a guide the weights of EfficientNet-Lite0 that were trained on ImageNet, batch norms folded in.

    Raises:
        UserError: the package of the extra `guide` is not installed.
    """
    weights = lite_weights(0)

    def fold(convolution: nn.Module, name: str, norm: str) -> None:
        """w' = w gamma / sqrt(variance + epsilon), b' = beta - mean gamma / sqrt(variance + epsilon)."""
        assert isinstance(convolution, Convolution) and convolution.bias is not None
        scale = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + NORM_EPS).sqrt()
        weight = weights[f"{name}.weight"] * scale[:, None, None, None]
        if weight.shape[1] != convolution.weight.shape[1]:
            weight = weight.sum(1, keepdim=True)  # the stem: its three channels are equal
        convolution.weight.copy_(weight)
        convolution.bias.copy_(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale)

    fold(guide.features.stem, "_conv_stem", "_bn0")
    for n, block in enumerate(guide.features.blocks):
        assert isinstance(block, InvertedResidual)
        if block.expand is not None:
            fold(block.expand, f"_blocks.{n}._expand_conv", f"_blocks.{n}._bn0")
        fold(block.depthwise, f"_blocks.{n}._depthwise_conv", f"_blocks.{n}._bn1")
        fold(block.project, f"_blocks.{n}._project_conv", f"_blocks.{n}._bn2")


@torch.no_grad()
def prepare(network: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> None:
    """Give a fresh network initial weights as this module says, with the frequencies in `batches`."""
    if isinstance(network, Guide):
        load_features(network)
        network.table.copy_(gray_table(batches))
        return
    head = network.logits
    assert isinstance(head, nn.Linear)
    if isinstance(network, Colorizer):
        smooth_embeddings(network)
        head.weight.zero_()
    elif isinstance(network, (ColorUpsampler, SpatialUpsampler)):
        start_at_inputs(network)
    start_at_frequencies(head, count_symbols(network, batches))
