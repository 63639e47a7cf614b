# SPDX-License-Identifier: Apache-2.0
"""Networks with the weights of the parity data, and the error measure they are compared by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from coltran import convert, networks
from coltran.image import rgb_to_gray
from coltran.networks.colorizer import Colorizer
from coltran.sampling import sample

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


FROZEN = Path(__file__).resolve().parent / "fixtures" / "frozen.npz"


def frozen_network(config: Mapping[str, Any]) -> nn.Module:
    """A network of a given configuration with weights from a fixed stream of numbers, the same on any machine."""
    network = networks.build(config)
    stream = np.random.Philox(key=20211)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            numbers = (stream.random_raw(tensor.numel()) >> np.uint64(40)).astype(np.float64) / 2**24
            tensor.copy_(torch.from_numpy(numbers - 0.5).view(tensor.shape))
    return network.eval()


def frozen_outputs(network: nn.Module) -> dict[str, np.ndarray]:
    """Logits at every 37th pixel, and for a colorizer both argmax samples, on images from a fixed stream."""
    height, width = network.config["resolution"]
    raw = np.random.Philox(key=1712).random_raw(height * width * 3) >> np.uint64(56)
    rgb = torch.from_numpy(raw.astype(np.int64)).view(1, height, width, 3)
    gray = rgb_to_gray(rgb)
    with torch.no_grad():
        if isinstance(network, Colorizer):
            outputs = {"logits": network(rgb).logits}
            for norm in ("exact", "rowcontext"):
                outputs[f"labels_{norm}"] = sample(network, gray, mode="argmax", norm=norm).labels
        else:
            outputs = {"logits": network(rgb // (256 // network.levels), gray)}
    outputs["logits"] = outputs["logits"].flatten(1, 2)[:, ::37]
    return {name: tensor.numpy() for name, tensor in outputs.items()}
