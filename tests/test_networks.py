# SPDX-License-Identifier: Apache-2.0
"""The networks' promises beyond the numbers: causality, defaults, shapes, errors."""

from __future__ import annotations

import copy

import pytest
import torch
from ml_collections import ConfigDict

from coltran import networks
from coltran.networks.colorizer import Colorizer
from coltran.networks.layers import Dropout, draw_dropout, shift_down, shift_right
from coltran.networks.upsamplers import ColorUpsampler, SpatialUpsampler
from tests.tiny import colorizer_config, upsampler_config


def _randomized(network):
    """Every weight random, so that nothing hides behind a zero or a one."""
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.normal_(std=0.3)
    return network.eval()


@pytest.mark.parametrize("implementation", ["reference", "cpu"])
@pytest.mark.parametrize("pixel", [(0, 0), (2, 3), (3, 7), (5, 6)])
def test_a_pixel_changes_every_later_logit_and_none_up_to_its_own_to_the_bit(implementation, pixel):
    network = _randomized(Colorizer(colorizer_config()))
    labels = torch.randint(512, (2, 6, 8))
    z = network.encode(torch.randint(256, (2, 6, 8)))
    changed = labels.clone()
    changed[:, pixel[0], pixel[1]] = (labels[:, pixel[0], pixel[1]] + 77) % 512
    before = network.decode(labels, z, implementation=implementation).flatten(1, 2)
    after = network.decode(changed, z, implementation=implementation).flatten(1, 2)
    position = pixel[0] * 8 + pixel[1]
    assert torch.equal(before[:, : position + 1], after[:, : position + 1])
    assert ((before - after)[:, position + 1 :].abs().amax(-1) > 0).all()


def test_images_of_a_batch_do_not_touch_each_other():
    network = _randomized(Colorizer(colorizer_config()))
    rgb = torch.randint(256, (3, 6, 8, 3))
    together = network(rgb).logits
    apart = torch.cat([network(image[None]).logits for image in rgb])
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("section", [colorizer_config(), upsampler_config("color_upsampler")], ids=lambda s: s["name"])
def test_config_may_be_a_mapping_or_a_config_dict(section):
    before = copy.deepcopy(section)
    assert networks.build(ConfigDict(section)).config == networks.build(section).config == section == before


def test_missing_keys_mean_what_they_meant_in_the_original():
    section = colorizer_config()
    for key in ("cond_att_q", "cond_att_k", "cond_att_v", "cond_att_scale"):
        del section["decoder"][key]
    del section["stage"]
    network = Colorizer(section)
    assert network.parallel_logits is None
    assert network.outer_decoder.attention[0].conditioned == "qkv"
    assert network.outer_decoder.attention[0].cond_scale
    assert network.inner_decoder.attention[0].conditioned == ""
    assert network.inner_decoder.feed_forward[0].parts == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cond_mlp", "multiply"),
        ("cond_mlp_act", "gelu"),
        ("cond_att_act", "gelu"),
        ("cond_att_init", "normal"),
        ("cond_ln_act", "gelu"),
        ("cond_ln_seq", "ss"),
        ("cond_ln_sp_ave", "max"),
    ],
)
def test_an_unknown_option_is_named_with_what_it_may_be(key, value):
    with pytest.raises(ValueError, match=f"must be one of .*got '{value}'"):
        Colorizer(colorizer_config(**{key: value}))


def test_skip_needs_equal_sizes_and_without_it_the_encoder_may_have_its_own():
    with pytest.raises(ValueError, match="model.name must be one of .*got 'resnet'"):
        networks.build({"name": "resnet"})
    section = colorizer_config()
    section["encoder"]["hidden_size"] = 8
    with pytest.raises(ValueError, match="skip needs"):
        Colorizer(section)
    section["decoder"]["skip"] = False
    assert Colorizer(section)(torch.randint(256, (1, 6, 8, 3))).logits.shape == (1, 6, 8, 512)


def test_resolution_is_that_of_the_data():
    whole = {"downsample": True, "downsample_res": 64, "resolution": [256, 256]}
    color, space = (upsampler_config(name, 64, 64) for name in ("color_upsampler", "spatial_upsampler"))
    assert networks.model_config(whole | {"model": color})["resolution"] == [64, 64]
    assert networks.model_config(whole | {"model": space})["resolution"] == [256, 256]
    whole["downsample"] = False
    assert networks.model_config(whole | {"model": color})["resolution"] == [256, 256]


@pytest.mark.parametrize("kind", [ColorUpsampler, SpatialUpsampler])
def test_one_channel_is_that_channel_of_all_three(kind):
    network = _randomized(kind(upsampler_config("")))
    channels, gray = torch.randint(kind.levels, (2, 6, 8, 3)), torch.randint(256, (2, 6, 8))
    whole = network(channels, gray)
    for channel in range(3):
        index = torch.full((2,), channel)
        alone = network(channels[..., channel : channel + 1], gray, index)
        torch.testing.assert_close(alone[..., 0, :], whole[..., channel, :], rtol=1e-5, atol=1e-5)


def test_channel_index_needs_one_channel():
    network = ColorUpsampler(upsampler_config(""))
    with pytest.raises(ValueError, match="needs one channel, got 3"):
        network(torch.zeros(1, 6, 8, 3, dtype=torch.long), torch.zeros(1, 6, 8, dtype=torch.long), torch.zeros(1))


def test_dropout_acts_in_training_only():
    section = colorizer_config(dropout=0.5)
    network, rgb = Colorizer(section), torch.randint(256, (1, 6, 8, 3))
    assert not torch.equal(network(rgb).logits, network(rgb).logits)
    network.eval()
    assert torch.equal(network(rgb).logits, network(rgb).logits)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.75])
def test_dropout_of_an_image_is_drawn_from_its_own_generator(p):
    layer, x = Dropout(p), torch.ones(2, 33, 35, 7)  # of which no image has a multiple of four numbers
    draw_dropout(layer, [torch.Generator().manual_seed(seed) for seed in (1, 2)])
    both = layer(x)
    draw_dropout(layer, [torch.Generator().manual_seed(2)])
    assert torch.equal(layer(x[1:]), both[1:]) and not torch.equal(both[0], both[1])
    assert sorted(both.unique().tolist()) == pytest.approx([0, 1 / (1 - p)], rel=1e-4)
    deviation = (p / (1 - p) / x.numel()) ** 0.5
    assert abs(both.mean().item() - 1) < 4 * deviation
    pairs = (both[:, :, 1:] - 1) * (both[:, :, :-1] - 1)
    assert abs(pairs.mean().item()) < 4 * p / (1 - p) / pairs.numel() ** 0.5  # neighbours know nothing of each other


def test_shifts_move_by_one_and_fill_with_zero():
    x = torch.arange(1.0, 7.0).view(1, 2, 3, 1)
    assert shift_down(x).flatten().tolist() == [0, 0, 0, 1, 2, 3]
    assert shift_right(x).flatten().tolist() == [0, 1, 2, 0, 4, 5]
