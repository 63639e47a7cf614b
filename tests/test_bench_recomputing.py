# SPDX-License-Identifier: Apache-2.0
"""The original's algorithm draws what the incremental sampler draws."""

from __future__ import annotations

import pytest
import torch
from networks_of_parity import load_network
from tiny import colorizer_config
from torch import nn

from bench import recomputing
from coltran.networks.colorizer import Colorizer
from coltran.sampling import sample

OPTIONS = {
    "paper": {},
    "shift": {"cond_mlp": "shift", "cond_att_scale": False, "cond_ln_seq": "cs", "cond_ln_sp_ave": "mean"},
    "plain norm": {"cond_ln": False, "cond_att_k": False, "skip": False},
}


def _network(**options):
    network = Colorizer(colorizer_config(**options))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3)
    return network.eval()


def _gray(batch=2):
    return torch.randint(256, (batch, 6, 8), dtype=torch.uint8)


@pytest.mark.parametrize("norm", ["exact", "rowcontext"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_it_draws_the_sampler_s_image_for_the_same_uniforms(options, norm):
    network, gray = _network(**options), _gray(3)
    expected = sample(network, gray, norm=norm, seed=4)
    drawn = recomputing.sample(network, gray, norm=norm, seed=4)
    assert torch.equal(drawn.rgb, expected.rgb)
    assert torch.equal(drawn.labels, expected.labels)
    torch.testing.assert_close(drawn.log_prob, expected.log_prob, rtol=0, atol=1e-4)


def test_it_draws_the_sampler_s_image_at_another_temperature_and_top_p():
    network, gray = _network(), _gray()
    options = {"temperature": 0.7, "top_p": 0.8, "seed": 1}
    assert torch.equal(recomputing.sample(network, gray, **options).labels, sample(network, gray, **options).labels)


@pytest.mark.parametrize("norm", ["exact", "rowcontext"])
def test_it_reproduces_the_most_probable_image_of_the_original_program(parity, norm):
    data = parity("colorizer_affine")
    gray = torch.from_numpy(data["gray"][..., 0])
    drawn = recomputing.sample(load_network(data), gray, mode="argmax", norm=norm)
    assert torch.equal(drawn.rgb, torch.from_numpy(data[f"sample_argmax_{norm}_rgb"]))


def test_its_first_rows_do_not_depend_on_how_many_are_asked_for():
    network, gray = _network(), _gray()
    few, all_rows = recomputing.sample(network, gray, rows=2), recomputing.sample(network, gray)
    assert torch.equal(few.labels[:, :2], all_rows.labels[:, :2])
    assert not few.labels[:, 2:].any()


def test_given_labels_are_imposed_and_their_probabilities_reported():
    network, gray = _network(), _gray()
    given = torch.randint(512, (2, 6, 8))
    forced = recomputing.sample(network, gray, given=given, return_probabilities=True)
    with torch.no_grad():
        expected = network.decode(given, network.encode(gray)).softmax(-1)
    assert torch.equal(forced.labels, given)
    torch.testing.assert_close(forced.probabilities, expected, rtol=0, atol=1e-5)


def test_the_inner_decoder_runs_once_a_pixel_on_a_row_and_the_outer_once_a_row_on_the_image():
    network, gray = _network(), _gray()
    seen: dict[str, list[int]] = {"inner": [], "outer": []}

    def count(name: str, module: nn.Module) -> None:
        module.register_forward_pre_hook(lambda _, inputs: seen[name].append(inputs[0].shape[1] * inputs[0].shape[2]))

    count("inner", network.inner_decoder.attention[0])
    count("outer", network.outer_decoder.attention[0])
    recomputing.sample(network, gray)
    assert seen["inner"] == [8] * 48
    assert seen["outer"] == [48] * 5  # not after the last row


def test_the_stages_are_reported_as_they_finish():
    seen = []
    recomputing.sample(_network(), _gray(), rows=2, finished=seen.append)
    assert seen == ["encoder", *["inner decoder", "outer decoder"] * 2]


@pytest.mark.parametrize(
    ("options", "word"), [({"rows": 7}, "rows"), ({"norm": "row"}, "norm"), ({"mode": "best"}, "mode")]
)
def test_an_argument_out_of_range_is_named(options, word):
    with pytest.raises(ValueError, match=word):
        recomputing.sample(_network(), _gray(), **options)
