# SPDX-License-Identifier: Apache-2.0
"""Rows by fixed point and pixel by pixel make the same images; where the choice is free, the faster way goes on."""

from __future__ import annotations

import pytest
import torch
from tiny import colorizer_config

from coltran.networks.colorizer import Colorizer
from coltran.sampling import sample, ways


@pytest.fixture(scope="module")
def network() -> Colorizer:
    torch.manual_seed(1)
    network = Colorizer(colorizer_config(height=12, width=7)).eval()
    for tensor in network.state_dict().values():
        tensor.normal_(std=0.3)
    return network


GRAY = torch.arange(2 * 12 * 7).reshape(2, 12, 7)


@pytest.mark.parametrize("options", [{}, {"mode": "argmax"}, {"norm": "rowcontext", "top_p": 0.8}], ids=str)
@pytest.mark.parametrize("method", ["fixed_point", None])
def test_every_way_draws_the_same_image(network, options, method):
    given = torch.where(GRAY % 5 == 0, GRAY, -1)
    for gray, imposed in ((GRAY, None), (GRAY[:1], None), (GRAY, given)):
        one, other = (sample(network, gray, seed=3, given=imposed, method=m, **options) for m in ("sequential", method))
        assert torch.equal(one.labels, other.labels)
        torch.testing.assert_close(one.log_prob, other.log_prob, rtol=0, atol=1e-5)


def test_passes_and_computed_pixels_are_told(network):
    found = sample(network, GRAY, seed=3, method="fixed_point")
    assert found.passes is not None and found.computed is not None
    assert found.passes.shape == found.computed.shape == (2, 12)
    assert (found.passes <= 7).all() and (found.computed >= 7).all()
    plain = sample(network, GRAY, seed=3, method="sequential")
    assert plain.passes is not None and (plain.passes == 7).all()


def test_a_method_that_there_is_not_is_refused(network):
    with pytest.raises(ValueError, match="method"):
        sample(network, GRAY, method="parallel")


@pytest.mark.parametrize("slow", ["sequential", "fixed_point"])
def test_the_faster_way_goes_on(network, slow, monkeypatch):
    taken, clock = [], [0.0]
    monkeypatch.setattr(ways.time, "perf_counter", lambda: clock[0])
    for name in ("sequential", "fixed_point"):
        plain = getattr(ways.RowDrawer, f"_{name}")

        def draw(*arguments, name=name, plain=plain):
            taken.append(name)
            clock[0] += 2.0 if name == slow else 1.0
            return plain(*arguments)

        monkeypatch.setattr(ways.RowDrawer, f"_{name}", draw)
    drawn = sample(network, GRAY[:1], seed=3)
    assert len(taken) == 12 and slow not in taken[1 + 2 * ways.TRIED :]
    monkeypatch.undo()
    assert torch.equal(drawn.labels, sample(network, GRAY[:1], seed=3, method="sequential").labels)
