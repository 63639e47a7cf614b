# SPDX-License-Identifier: Apache-2.0
"""The grid of images that a training shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coltran import networks
from coltran.image import labels_to_colors, rgb_to_gray
from coltran.training.report import image_grid
from tests.tiny_training import whole_config


@pytest.mark.parametrize("name", ["coltran_core", "color_upsampler", "spatial_upsampler"])
@pytest.mark.parametrize("images", [1, 6])
def test_a_row_is_an_image_in_gray_as_predicted_and_in_truth(name, images):
    network = networks.build(networks.model_config(whole_config(name))).train()
    height, width = network.config["resolution"]
    most_probable = 73
    torch.nn.init.zeros_(network.logits.weight)
    with torch.no_grad():
        network.logits.bias.zero_()[most_probable] = 1.0
    rgb = torch.randint(0, 256, (images, height, width, 3), dtype=torch.uint8)
    rows = image_grid(network, {"rgb": rgb, "low_res": rgb}).reshape(-1, height, 3, width, 3)
    assert network.training
    truth = rgb[:4].numpy()
    predicted = [most_probable] * 3
    if name == "coltran_core":
        predicted = labels_to_colors(torch.tensor(most_probable)).tolist()
    np.testing.assert_array_equal(rows[:, :, 2], truth)
    np.testing.assert_array_equal(rows[:, :, 0], np.repeat(rgb_to_gray(truth)[..., None], 3, axis=-1))
    np.testing.assert_array_equal(rows[:, :, 1], np.broadcast_to(np.uint8(predicted), truth.shape))
