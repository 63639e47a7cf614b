# SPDX-License-Identifier: Apache-2.0
"""A trained network is a start: exported for itself, and for one twice as wide, which computes the same at first."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from coltran import networks
from coltran.errors import UserError
from coltran.export import export
from coltran.networks.upsamplers import ColorUpsampler, SpatialUpsampler
from coltran.train import train
from coltran.training.net2net import net2wider
from tests.tiny import colorizer_config, tiny_networks
from tests.tiny_training import losses_of, whole_config, write_photos


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
    wide = net2wider(_trained(network), _wide(network.config), noise=0)
    torch.testing.assert_close(_logits(wide), _logits(network), rtol=0, atol=2e-4)


@torch.no_grad()
def test_noise_sets_the_channels_of_a_pair_apart_and_changes_little():
    torch.manual_seed(0)
    network = _trained(networks.build(colorizer_config()))
    wide, expected = net2wider(network, _wide(network.config)), _logits(network)
    assert (_logits(wide) - expected).std() < expected.std() / 3
    for name, tensor in wide.state_dict().items():
        if tensor.dim() == 2 and tensor.shape[0] == 2 * network.state_dict()[name].shape[0]:
            assert (tensor[::2] != tensor[1::2]).all(), name


def test_an_activation_that_no_factor_passes_is_refused():
    network = networks.build(colorizer_config(cond_att_act="tanh"))
    with pytest.raises(NotImplementedError, match="cond_att_act must be identity or relu"):
        net2wider(network, _wide(network.config))


LEARNS = {"optimizer": {"type": "adam", "learning_rate": 1e-2}, "polyak_decay": 0.0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with photographs, and the log directory of a colorizer that has learned them in 60 steps."""
    here = tmp_path_factory.mktemp("trained")
    train(
        whole_config(max_train_steps=60, **LEARNS),
        here / "runs" / "colorizer",
        write_photos(here / "photos"),
        workers=0,
    )
    return here


@pytest.mark.parametrize("how", ["of half the width", "exported"])
def test_a_training_starts_where_trained_weights_were(trained: Path, tmp_path: Path, how: str):
    config, source = whole_config(max_train_steps=1, **LEARNS).to_dict(), trained / "runs" / "colorizer"
    if how == "exported":
        export(trained / "runs", tmp_path / "published", torch.float16)
        source = tmp_path / "published" / "colorizer"
    else:
        config["model"] = _wide(config["model"])
    losses = []
    for name, start in (("fresh", None), ("on", source)):
        train(config, tmp_path / name, trained / "photos", seed=1, workers=0, pretrain_dir=start, steps_per_summaries=1)
        losses.append(losses_of(tmp_path / name)[0][1])
    assert losses[1] < losses[0] - 1


def test_a_network_that_is_not_half_as_wide_is_refused(trained: Path, tmp_path: Path):
    config = whole_config(max_train_steps=1).to_dict()
    wide = config | {"model": _wide(_wide(config["model"]))}
    with pytest.raises(UserError, match="is of another network than the configuration: model.decoder.ff_size"):
        train(wide, tmp_path / "wide", trained / "photos", workers=0, pretrain_dir=trained / "runs" / "colorizer")
    assert not (tmp_path / "wide").exists()
