# SPDX-License-Identifier: Apache-2.0
"""Variables of the original program are used exactly once, whatever their automatic numbers, or not at all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coltran.original import variables
from tests.tf_bundle import numbered
from tests.tiny import tiny_networks


def _original_variables(network, start=0):
    """The network's weights under the original's names, whose automatic numbers begin at `start`."""
    layout = variables.to_tf_layout(network, network.state_dict())
    return {numbered(name, start): array for name, array in layout.items()}


@pytest.fixture(params=tiny_networks(), ids=lambda network: type(network).__name__)
def network(request):
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in request.param.state_dict().values():
            tensor.normal_()
    return request.param


@pytest.mark.parametrize("start", [0, 37])
def test_weights_survive_the_way_out_and_in(network, start):
    expected = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    originals = _original_variables(network, start)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.zero_()
    variables.load_tf_variables(network, originals)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_each_problem_is_listed_and_nothing_changes(network):
    originals = _original_variables(network)
    expected = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    gone = next(name for name in originals if "position_embedding" in name)
    bent = list(originals)[-1]
    del originals[gone]
    originals[bent] = originals[bent][:-1]
    originals["stranger/kernel"] = np.zeros((2, 3))
    with pytest.raises(ValueError) as caught:
        variables.load_tf_variables(network, originals)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("3 variables do not fit")
    assert [line.split()[0] for line in lines[1:]] == ["missing", "unexpected", "misshapen"]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())


def test_two_names_for_one_variable_are_refused(network):
    originals = _original_variables(network)
    name = list(originals)[0]
    with pytest.raises(ValueError, match="same canonical name"):
        variables.load_tf_variables(network, originals | {f"{name}:0": originals[name]})


def test_only_the_three_networks_are_known():
    with pytest.raises(TypeError, match="Linear"):
        variables.slots(torch.nn.Linear(2, 2))


def test_siblings_are_ranked_by_number_not_by_spelling():
    ranked = {"dense_9": "dense.1", "dense_10": "dense.2", "dense": "dense.0", "affine_r_0": "affine_r_0"}
    names = [f"core/{name}/kernel" for name in ranked]
    assert list(variables.canonical_names(names).values()) == [f"core/{name}/kernel" for name in ranked.values()]
    assert variables.canonical_names(["dense_2/bias"]) == {"dense_2/bias": "dense.0/bias"}
