# SPDX-License-Identifier: Apache-2.0
"""The value that an upsampler's distribution stands for."""

from __future__ import annotations

import pytest
import torch

from coltran.networks import ColorUpsampler
from coltran.sampling import upsample_color
from coltran.sampling.estimates import ESTIMATES
from tests.tiny import upsampler_config


def _logits(**probabilities: float) -> torch.Tensor:
    found = torch.full((1, 256), 1e-12)
    for value, probability in probabilities.items():
        found[0, int(value.removeprefix("of_"))] = probability
    return found.log()


@pytest.mark.parametrize(("name", "expected"), [("argmax", 120), ("mean", 198), ("sharp", 186), ("median", 230)])
def test_of_a_distribution_with_a_far_peak(name, expected):
    """The mean is 0.3 * 120 + 0.29 * 230 + 0.21 * 231 + 0.2 * 232 = 197.6."""
    assert ESTIMATES[name](_logits(of_120=0.3, of_230=0.29, of_231=0.21, of_232=0.2)).tolist() == [expected]


@pytest.mark.parametrize("name", sorted(ESTIMATES))
@pytest.mark.parametrize("value", [0, 1, 255])
def test_of_a_certain_value_it_is_that_value(name, value):
    found = ESTIMATES[name](_logits(**{f"of_{value}": 1.0}))
    assert found.dtype == torch.uint8 and found.tolist() == [value]


@pytest.mark.parametrize("name", ["mean", "median"])
def test_no_other_value_has_a_smaller_expected_error(name):
    """The mean has the least squared, the median the least absolute error."""
    logits = torch.randn(40, 256) * 3
    found, values = ESTIMATES[name](logits).long(), torch.arange(256.0)
    distance = (values[:, None] - values).abs() ** (2 if name == "mean" else 1)
    errors = logits.softmax(-1) @ distance  # [40, 256], of each value that might be named
    least = errors.amin(-1)
    assert (errors.gather(-1, found[:, None])[:, 0] <= least * (1 + 1e-5)).all()


def test_an_upsampler_takes_the_one_that_is_asked_for():
    network = ColorUpsampler(upsampler_config("color_upsampler")).eval()
    coarse, gray = torch.randint(8, (1, 6, 8, 3)) * 32, torch.randint(256, (1, 6, 8))
    logits = network(coarse // 32, gray)
    for name, estimate in ESTIMATES.items():
        off = upsample_color(network, coarse, gray, estimate=name).int() - estimate(logits).int()
        assert (off.abs() <= 1).all() and (off != 0).float().mean() < 0.02  # where rounding decides
    with pytest.raises(ValueError, match="estimate"):
        upsample_color(network, coarse, gray, estimate="mode")
