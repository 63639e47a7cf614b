# SPDX-License-Identifier: Apache-2.0
"""Encoding in blocks is encoding."""

from __future__ import annotations

import pytest
import torch

from coltran.networks.colorizer import Colorizer
from coltran.networks.upsamplers import SpatialUpsampler
from coltran.sampling import encoding
from coltran.sampling.estimates import most_probable
from tests.tiny import colorizer_config, upsampler_config


@pytest.fixture(params=[1, 20, 1000], ids=["a line a block", "some lines", "one block"], autouse=True)
def _block(request, monkeypatch):
    monkeypatch.setattr(encoding, "PIXELS", request.param)


def _randomize(network):
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(std=0.3)
    return network


def test_blocks_of_a_gray_image_are_the_image():
    network, gray = _randomize(Colorizer(colorizer_config(7, 9))).eval(), torch.randint(256, (3, 7, 9))
    with torch.no_grad():
        expected = network.encode(gray)
    torch.testing.assert_close(encoding.encode_gray(network, gray), expected, rtol=0, atol=1e-5)


def test_an_image_that_occurs_several_times_is_encoded_once(monkeypatch):
    network, (one, two) = _randomize(Colorizer(colorizer_config(7, 9))).eval(), torch.randint(256, (2, 7, 9))
    gray = torch.stack((two, one, two, two))
    expected, encode, counts = encoding.encode_gray(network, gray), encoding.encode_gray, []

    def counting(network, gray, **options):
        counts.append(len(gray))
        return encode(network, gray, **options)

    monkeypatch.setattr(encoding, "encode_gray", counting)
    torch.testing.assert_close(encoding.encode_distinct(network, gray), expected, rtol=0, atol=1e-6)
    assert counts == [2]


def test_the_most_probable_values_are_those_of_all_logits():
    network = _randomize(SpatialUpsampler(upsampler_config("spatial_upsampler", 7, 9))).eval()
    rgb, gray = torch.randint(256, (2, 7, 9, 3), dtype=torch.uint8), torch.randint(256, (2, 7, 9), dtype=torch.uint8)
    with torch.no_grad():
        logits = network(rgb, gray)
    chosen = logits.gather(-1, encoding.estimate_values(network, rgb, gray, most_probable).long()[..., None])[..., 0]
    torch.testing.assert_close(chosen, logits.amax(-1), rtol=0, atol=1e-5)


def test_dropout_is_not_applied():
    network = _randomize(Colorizer(colorizer_config())).train()
    network.gray_encoder.encoder.dropout.p = 0.5
    gray = torch.randint(256, (1, 6, 8))
    assert torch.equal(encoding.encode_gray(network, gray), encoding.encode_gray(network, gray))
    assert network.training
