# SPDX-License-Identifier: Apache-2.0
"""LPIPS (Zhang et al., 2018, version 0.1): how different images look, in the features f of VGG-16.

    u_l(x) = f_l(x) / |f_l(x)|                        (per pixel, of the last layer of each of the five blocks)
    d(x, y) = sum over l of the mean over the pixels of w_l . (u_l(x) - u_l(y))^2

Its two files of weights are given by path; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from coltran.errors import UserError
from coltran.training.pretrained import read_weights

BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))  # VGG-16's convolutions, as torchvision counts
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of colours in -1..1
TINY = 1e-10  # keeps features that are all 0 from dividing by zero

Diversity = Callable[[list[np.ndarray]], float]  # of at least two images uint8 [H, W, 3]


def diversity(vgg: str | Path, linear: str | Path) -> Diversity:
    """The mean LPIPS of all pairs of some images of one size, at least 16 pixels a side.

    Args:
        vgg: vgg16-397923af.pth, VGG-16 as torchvision publishes it.
        linear: vgg.pth of version 0.1 of LPIPS, the w_l.

    Raises:
        UserError: a file is missing, or holds other weights.
    """
    network, weights = read_weights(vgg), read_weights(linear)
    try:
        layers = [[(network[f"features.{i}.weight"], network[f"features.{i}.bias"]) for i in block] for block in BLOCKS]
    except (KeyError, TypeError) as error:
        raise UserError(f"{vgg} are not the weights of VGG-16: they lack {error}.") from error
    try:
        of_layer = [weights[f"lin{n}.model.1.weight"].view(-1) for n in range(len(BLOCKS))]
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{linear} are not the weights of LPIPS for VGG-16: they lack {error}.") from error

    def units(image: np.ndarray) -> list[Tensor]:
        colours = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1  # [1, 3, H, W]
        x = (colours - torch.tensor(SHIFT).view(3, 1, 1)) / torch.tensor(SCALE).view(3, 1, 1)
        found = []
        for n, block in enumerate(layers):
            x = F.max_pool2d(x, 2) if n else x
            for weight, bias in block:
                x = F.conv2d(x, weight, bias, padding=1).relu_()
            found.append(x / (x.norm(dim=1, keepdim=True) + TINY))
        return found

    @torch.no_grad()
    def measure(images: list[np.ndarray]) -> float:
        seen = [units(image) for image in images]
        pairs = [
            sum(float(((a - b) ** 2).mean((0, 2, 3)) @ w) for a, b, w in zip(one, other, of_layer, strict=True))
            for one, other in combinations(seen, 2)
        ]
        return float(np.mean(pairs))

    return measure
