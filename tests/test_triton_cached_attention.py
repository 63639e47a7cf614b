# SPDX-License-Identifier: Apache-2.0
"""Attention of a new row over the kept ones in Triton, interpreted where there is no GPU, against its specification."""

from __future__ import annotations

import pytest
import torch

from coltran.networks.colorizer import Colorizer
from coltran.sampling import sample
from coltran_kernels import cached_attention, reference
from tests.attention_cases import assert_within_budget
from tests.tiny import colorizer_config

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _arguments(length, channels, dtype=torch.float32):
    """One row's queries, some of a cache full of NaN beyond what is known, a part of the bias table."""
    q, cache = torch.randn(2, 3, 2, channels), torch.full((2, 2, 3, length + 9, 2, channels), torch.nan)
    cache[:, :, :, :length] = torch.randn(2, 2, 3, length, 2, channels)
    q, cache, table = (t.to(DEVICE, dtype) for t in (q, cache, torch.randn(2, length + 20)))
    keys, values = cache.transpose(2, 3)[:, :, :length]
    return q, keys, values, table[:, 11 : 11 + length]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [5, 16, 24, 128])
@pytest.mark.parametrize("length", [1, 7, 32, 33, 80])
def test_it_is_within_twice_the_error_of_plain_torch(length, channels, dtype):
    arguments = _arguments(length, channels, dtype)
    exact = reference.cached_attention(*(t.double() for t in arguments))
    plain, found = (cached_attention(*arguments, implementation=name) for name in ("reference", "triton"))
    assert_within_budget({"out": found}, {"out": plain}, {"out": exact})


def test_float64_is_computed_in_float64():
    arguments = _arguments(40, 16, torch.float64)
    expected = reference.cached_attention(*arguments)
    torch.testing.assert_close(cached_attention(*arguments, implementation="triton"), expected, rtol=1e-12, atol=1e-12)


def test_rows_of_minus_infinite_bias_are_left_out():
    q, k, v, bias = _arguments(70, 16)
    bias = bias.clone()
    bias[:, :40] = float("-inf")
    found = cached_attention(q, k, v, bias, implementation="triton")
    torch.testing.assert_close(found, reference.cached_attention(q, k[:, 40:], v[:, 40:], bias[:, 40:]))


@torch.no_grad()
def test_a_whole_sample_by_triton_is_that_of_plain_torch():
    network = Colorizer(colorizer_config(height=2, width=3)).eval().to(DEVICE)
    for tensor in network.state_dict().values():
        tensor.normal_(std=0.3)
    gray = torch.randint(256, (2, 2, 3), dtype=torch.uint8).to(DEVICE)
    plain, found = (sample(network, gray, seed=4, top_p=0.95, implementation=name) for name in ("reference", "triton"))
    assert torch.equal(found.labels, plain.labels)
    torch.testing.assert_close(found.log_prob, plain.log_prob, rtol=0, atol=1e-4)
