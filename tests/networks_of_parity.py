# SPDX-License-Identifier: Apache-2.0
"""Networks with the weights of the parity data, and the error measure they are compared by."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from torch import Tensor, nn

from coltran import convert, networks

COLORIZERS = ("colorizer_affine", "colorizer_shift_tanh", "colorizer_plain_ln")
UPSAMPLERS = ("color_upsampler", "spatial_upsampler")


def relative_error(actual: Tensor | np.ndarray, expected: np.ndarray) -> float:
    """|actual - expected| / |expected| over the whole array; the shapes must be equal."""
    array = actual.detach().numpy() if isinstance(actual, Tensor) else actual
    assert array.shape == expected.shape
    return float(np.linalg.norm(array - expected) / np.linalg.norm(expected))


def variables(data: Mapping[str, np.ndarray], prefix: str = "weights/") -> dict[str, np.ndarray]:
    """The original's variables out of one parity file, by their original names."""
    return {name.removeprefix(prefix): data[name] for name in data if name.startswith(prefix)}


def load_network(data: Mapping[str, np.ndarray]) -> nn.Module:
    """The network of one parity file, with its weights, in evaluation mode."""
    network = networks.build(json.loads(str(data["config_json"])))
    convert.load_tf_variables(network, variables(data))
    return network.eval()
