# SPDX-License-Identifier: Apache-2.0
"""A prepared network starts at the frequencies of its data, with embeddings in which like values are alike."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from coltran import networks
from coltran.networks.losses import compute_losses
from coltran.training.initialization import count_symbols, prepare, smooth_embeddings, start_at_inputs
from tests.tiny import colorizer_config, upsampler_config

SECTIONS = [colorizer_config(), upsampler_config("color_upsampler"), upsampler_config("spatial_upsampler")]


def _batches():
    return [{"rgb": torch.randint(256, (2, 6, 8, 3), dtype=torch.uint8) // 3} for _ in range(3)]


def _similarity(table, distance):
    """Mean cosine similarity of vectors `distance` apart."""
    return torch.cosine_similarity(table[:-distance], table[distance:], -1).mean()


def test_a_colorizers_first_loss_is_the_entropy_of_the_frequencies():
    network, batches = networks.build(colorizer_config()), _batches()
    prepare(network, batches)
    whole = {"rgb": torch.cat([batch["rgb"] for batch in batches])}
    counts = count_symbols(network, batches)
    expected = -(counts * ((counts + 1) / (counts + 1).sum()).log2()).sum() / counts.sum()
    loss = compute_losses(network, whole, {}, training=False)["loss"]
    torch.testing.assert_close(loss, expected.to(loss.dtype), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["color_upsampler", "spatial_upsampler"])
def test_an_upsampler_begins_by_predicting_values_near_those_it_is_given(name):
    torch.manual_seed(4)
    network = networks.build(upsampler_config(name) | {"hidden_size": 64})
    prepare(network, [{"rgb": torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)}])
    for level in (30, 90, 150, 220):
        gray = torch.full((1, 6, 8), level)  # an even gray image: its channels have that value
        channels = (gray // (256 // network.levels))[..., None].expand(1, 6, 8, 3)
        assert (network(channels, gray).argmax(-1) - level).abs().float().mean() < 20


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s["name"])
def test_near_gray_levels_are_alike_and_distant_ones_are_not(section):
    network = networks.build(section)
    prepare(network, _batches())
    table = network.gray_encoder.embedding if section["name"] == "coltran_core" else network.gray_embedding
    assert _similarity(table.weight, 1) > 0.95
    assert abs(_similarity(table.weight, 100)) < 0.3


def test_the_channels_of_an_upsampler_are_told_apart():
    network = networks.build(upsampler_config("spatial_upsampler"))
    prepare(network, _batches())
    assert _similarity(network.channel_embedding.weight, 256) < 0.95


class Apart(TorchDispatchMode):
    """Refuses all but copies between devices, as a GPU does; the meta device by itself is more lenient."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor) and t.dim()]
        assert function is torch.ops.aten.copy_.default or len({t.device for t in tensors}) < 2, function
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def test_networks_are_prepared_on_any_device():
    colorizer, *upsamplers = (networks.build(section).to("meta") for section in SECTIONS)
    with Apart():
        smooth_embeddings(colorizer)
        for network in upsamplers:
            start_at_inputs(network)


def test_preparing_is_decided_by_torchs_generator():
    tables = []
    for _ in range(2):
        torch.manual_seed(3)
        network = networks.build(colorizer_config())
        prepare(network, [{"rgb": torch.zeros(1, 6, 8, 3, dtype=torch.uint8)}])
        tables.append(network.embedding.weight)
    assert torch.equal(*tables)
