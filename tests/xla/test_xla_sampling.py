# SPDX-License-Identifier: Apache-2.0
"""Sampling on an XLA device draws what sampling on the CPU draws, and compiles a handful of graphs, once."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from coltran.networks.colorizer import Colorizer
from coltran.networks.upsamplers import ColorUpsampler, SpatialUpsampler
from coltran.sampling import sample, upsample_color, upsample_space
from tests.tiny import OPTIONS, random_colorizer, upsampler_config
from tests.xla.conftest import compilations


def _gray(batch: int) -> torch.Tensor:
    return torch.randint(256, (batch, 6, 8), dtype=torch.uint8)


def _compare(network: Colorizer, gray: torch.Tensor, device: torch.device, given=None, **options: Any) -> None:
    options = {"seed": 4, "return_probabilities": True} | options
    right = sample(network, gray, given=given, implementation="reference", **options)
    imposed = None if given is None else given.to(device)
    found = sample(copy.deepcopy(network).to(device), gray.to(device), given=imposed, **options)
    assert torch.equal(found.labels.cpu(), right.labels)
    assert torch.equal(found.rgb.cpu(), right.rgb)
    torch.testing.assert_close(found.log_prob.cpu(), right.log_prob, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.probabilities.cpu(), right.probabilities, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "batch", "changed"),
    [
        ("paper", 1, {}),
        ("paper", 3, {"norm": "rowcontext"}),
        ("paper", 2, {"mode": "argmax"}),
        ("shift", 2, {"temperature": 0.7}),
        ("plain norm", 2, {"temperature": 1.3, "top_p": 0.9}),
        ("nothing conditioned", 2, {}),
        ("activations", 2, {"norm": "rowcontext", "top_p": 0.5}),
    ],
    ids=str,
)
def test_the_same_uniforms_draw_the_same_labels(device, options, batch, changed):
    _compare(random_colorizer(**OPTIONS[options]), _gray(batch), device, **changed)


def test_two_outer_layers_and_given_pixels(device):
    network, given = random_colorizer(num_outer_layers=2), torch.full((2, 6, 8), -1)
    given[:, 2, 3:5] = 77
    _compare(network, _gray(2), device, given=given)


def test_a_whole_image_compiles_a_handful_of_graphs_and_the_next_none(device):
    network = random_colorizer(ff_size=20).to(device)  # a size that no other test has
    before = compilations()
    sample(network, _gray(2).to(device), seed=0).rgb.cpu()
    first = compilations()
    assert first - before <= 5  # encoder, beginning, row, outer decoder, image
    for seed in (1, 2):
        sample(network, _gray(2).to(device), seed=seed).rgb.cpu()
    assert compilations() == first


@pytest.mark.parametrize(
    ("kind", "upsample", "name"),
    [(ColorUpsampler, upsample_color, "color_upsampler"), (SpatialUpsampler, upsample_space, "spatial_upsampler")],
)
def test_the_upsamplers_take_the_same_values_and_compile_once(device, kind, upsample, name):
    network = kind(upsampler_config(name)).eval()
    there, after = copy.deepcopy(network).to(device), []
    for _ in range(2):
        colors, gray = torch.randint(256, (2, 6, 8, 3)), _gray(2)
        found = upsample(there, colors.to(device), gray.to(device)).cpu()
        assert torch.equal(found, upsample(network, colors, gray))
        after.append(compilations())
    assert after[0] == after[1]
