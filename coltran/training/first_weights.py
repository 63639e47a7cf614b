# SPDX-License-Identifier: Apache-2.0
"""First weights for short trainings.

The original's first weights give every gray level and every colour a vector of its own, unrelated to its neighbours',
and random logits. In a long training that does not matter. In the first hundreds of steps it does: the network has to
learn 256 gray levels one by one, and the gradient that all pixels share, towards the frequencies of the colours, drives
the encoder towards a constant (docs/log.md has the figures). `prepare` starts a network at those frequencies, with
embeddings in which like values have like vectors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coltran.image import colors_to_labels, labels_to_colors, to_bits
from coltran.networks.colorizer import LABELS, Colorizer
from coltran.networks.upsamplers import ColorUpsampler, SpatialUpsampler

AMPLITUDE = math.sqrt(0.5)  # of the cosines, which gives the features a standard deviation of 1/2


@torch.no_grad()
def smooth_(table: Tensor, points: Tensor) -> None:
    """Fill an embedding table [N, D] with random cosine features of its symbols' coordinates [N, k].

    Feature d is a cosine of `points @ w_d` with w_d standard normal and a random phase (Rahimi and Recht, 2007), so
    symbols nearer than about 1 have similar vectors.
    """
    directions = torch.randn(points.shape[1], table.shape[1])
    phases = 2 * math.pi * torch.rand(table.shape[1])
    table.copy_(AMPLITUDE * torch.cos(points @ directions + phases))


def smooth_embeddings(network: nn.Module) -> None:
    """Fill the embedding tables of one of the three networks; torch's generator decides."""
    gray = torch.arange(256.0)[:, None] / 10  # coordinates: 10 levels of 256 apart is one unit
    if isinstance(network, Colorizer):
        smooth_(network.gray_encoder.embedding.weight, gray)
        smooth_(network.embedding.weight, labels_to_colors(torch.arange(LABELS)) / 85)
    elif isinstance(network, (ColorUpsampler, SpatialUpsampler)):
        smooth_(network.gray_embedding.weight, gray)
        value = torch.arange(network.levels) * (256 / network.levels) / 10
        channel = 100 * F.one_hot(torch.arange(3), 3)  # far apart
        points = [torch.cat((value[:, None], channel[c].expand(len(value), 3)), 1) for c in range(3)]
        smooth_(network.channel_embedding.weight, torch.cat(points))


@torch.no_grad()
def start_at_frequencies(head: nn.Linear, counts: Tensor) -> None:
    """Let logits [..., S] begin, whatever the input, at the frequencies of `counts` [S], add-one smoothed."""
    head.weight.zero_()
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


def prepare(network: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> None:
    """Give a fresh network smooth embeddings, and logits at the frequencies in `batches`."""
    smooth_embeddings(network)
    head = network.logits
    assert isinstance(head, nn.Linear)
    start_at_frequencies(head, count_symbols(network, batches))
