# SPDX-License-Identifier: Apache-2.0
"""The networks still compute what they computed when every number of the original program agreed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.networks_of_parity import COLORIZERS, FROZEN, UPSAMPLERS, frozen_network, frozen_outputs


@pytest.fixture(scope="module", params=COLORIZERS + UPSAMPLERS)
def computed_and_frozen(request):
    with np.load(FROZEN) as arrays:
        prefix = f"{request.param}/"
        frozen = {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
    return frozen_outputs(frozen_network(json.loads(str(frozen.pop("config_json"))))), frozen


def test_logits_agree(computed_and_frozen):
    computed, frozen = computed_and_frozen
    error = np.linalg.norm(computed["logits"] - frozen["logits"]) / np.linalg.norm(frozen["logits"])
    assert error < 1e-5


def test_argmax_samples_are_equal(computed_and_frozen):
    computed, frozen = computed_and_frozen
    assert computed.keys() == frozen.keys()
    for name in frozen.keys() - {"logits"}:
        np.testing.assert_array_equal(computed[name], frozen[name], err_msg=name)
