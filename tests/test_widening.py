# SPDX-License-Identifier: Apache-2.0
"""A trained network of half the width is a start for a wider one, which computes the same to begin with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from coltran import networks
from coltran.errors import UserError
from coltran.networks.upsamplers import ColorUpsampler, SpatialUpsampler
from coltran.train import train
from coltran.training.widening import widened
from tests.tiny import colorizer_config, tiny_networks
from tests.tiny_training import whole_config, write_photos


def _wide(section: dict) -> dict:
    doubled = {key: _wide(value) if isinstance(value, dict) else value for key, value in section.items()}
    return doubled | {key: 2 * section[key] for key in ("hidden_size", "ff_size") if key in section}


def _logits(network: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    colors = torch.randint(256, (2, 6, 8, 3), generator=generator)
    if isinstance(network, (ColorUpsampler, SpatialUpsampler)):
        levels = colors // 32 if isinstance(network, ColorUpsampler) else colors
        return network(levels, colors[..., 0])
    return network(colors).logits


def _trained(network: nn.Module) -> nn.Module:
    """With weights none of which is a constant of the start."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network.eval()


@torch.no_grad()
@pytest.mark.parametrize("network", tiny_networks(), ids=lambda n: type(n).__name__)
def test_it_computes_what_the_narrow_one_does(network: nn.Module):
    wide = widened(_trained(network), _wide(network.config), noise=0)
    torch.testing.assert_close(_logits(wide), _logits(network), rtol=0, atol=2e-4)


@torch.no_grad()
def test_noise_sets_the_channels_of_a_pair_apart_and_changes_little():
    torch.manual_seed(0)
    network = _trained(networks.build(colorizer_config()))
    wide, expected = widened(network, _wide(network.config)), _logits(network)
    assert (_logits(wide) - expected).std() < expected.std() / 3
    for name, tensor in wide.state_dict().items():
        if tensor.dim() == 2 and tensor.shape[0] == 2 * network.state_dict()[name].shape[0]:
            assert (tensor[::2] != tensor[1::2]).all(), name


def test_an_activation_that_no_factor_passes_is_refused():
    network = networks.build(colorizer_config(cond_att_act="tanh"))
    with pytest.raises(NotImplementedError, match="cond_att_act must be identity or relu"):
        widened(network, _wide(network.config))


def test_a_training_starts_from_the_weights_of_a_narrower_network(tmp_path: Path):
    photos = write_photos(tmp_path / "photos")
    common = {"workers": 0, "steps_per_summaries": 1}
    narrow = whole_config(max_train_steps=60, optimizer={"type": "adam", "learning_rate": 1e-2}, polyak_decay=0.0)
    wide = narrow.to_dict() | {"model": _wide(narrow.to_dict()["model"]), "max_train_steps": 1}
    train(narrow, tmp_path / "narrow", photos, **common)
    train(wide, tmp_path / "fresh", photos, seed=1, **common)
    train(wide, tmp_path / "wide", photos, seed=1, pretrain_dir=tmp_path / "narrow", **common)
    losses = [
        json.loads((tmp_path / run / "train.jsonl").read_text().splitlines()[0])["loss"] for run in ("wide", "fresh")
    ]
    assert losses[0] < losses[1] - 1


def test_a_network_that_is_not_half_as_wide_is_refused(tmp_path: Path):
    photos = write_photos(tmp_path / "photos")
    config = whole_config(max_train_steps=1)
    train(config, tmp_path / "narrow", photos, workers=0)
    wide = config.to_dict() | {"model": _wide(_wide(config.to_dict()["model"]))}
    with pytest.raises(UserError, match="is of another network than the configuration: model.decoder.ff_size"):
        train(wide, tmp_path / "wide", photos, workers=0, pretrain_dir=tmp_path / "narrow")
    assert not (tmp_path / "wide").exists()
