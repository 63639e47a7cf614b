# SPDX-License-Identifier: Apache-2.0
"""A prepared network starts at the frequencies of its data, with embeddings in which like values are alike."""

from __future__ import annotations

import pytest
import torch

from coltran import networks
from coltran.networks.losses import compute_losses
from coltran.training.first_weights import count_symbols, prepare, smooth_embeddings
from tests.tiny import colorizer_config, upsampler_config

SECTIONS = [colorizer_config(), upsampler_config("color_upsampler"), upsampler_config("spatial_upsampler")]


def _batches():
    return [{"rgb": torch.randint(256, (2, 6, 8, 3), dtype=torch.uint8) // 3} for _ in range(3)]


def _similarity(table, distance):
    """Mean cosine similarity of vectors `distance` apart."""
    return torch.cosine_similarity(table[:-distance], table[distance:], -1).mean()


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s["name"])
def test_the_first_loss_is_the_entropy_of_the_frequencies(section):
    network, batches = networks.build(section), _batches()
    prepare(network, batches)
    whole = {"rgb": torch.cat([batch["rgb"] for batch in batches])}
    whole["low_res"] = whole["rgb"]
    counts = count_symbols(network, batches)
    expected = -(counts * ((counts + 1) / (counts + 1).sum()).log2()).sum() / counts.sum()
    loss = compute_losses(network, whole, {}, training=False)["loss"]
    torch.testing.assert_close(loss, expected.to(loss.dtype), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s["name"])
def test_near_gray_levels_are_alike_and_distant_ones_are_not(section):
    network = networks.build(section)
    smooth_embeddings(network)
    table = network.gray_encoder.embedding if section["name"] == "coltran_core" else network.gray_embedding
    assert _similarity(table.weight, 1) > 0.95
    assert abs(_similarity(table.weight, 100)) < 0.3


def test_the_channels_of_an_upsampler_are_unlike():
    network = networks.build(upsampler_config("spatial_upsampler"))
    smooth_embeddings(network)
    assert abs(_similarity(network.channel_embedding.weight, 256)) < 0.3


def test_preparing_is_decided_by_torchs_generator():
    tables = []
    for _ in range(2):
        torch.manual_seed(3)
        network = networks.build(colorizer_config())
        prepare(network, [{"rgb": torch.zeros(1, 6, 8, 3, dtype=torch.uint8)}])
        tables.append(network.embedding.weight)
    assert torch.equal(*tables)
