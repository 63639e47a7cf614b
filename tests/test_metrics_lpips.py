# SPDX-License-Identifier: Apache-2.0
"""LPIPS is what others compute by that name, from weights in files."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import nn

from coltran.errors import UserError
from coltran.metrics import lpips

CHANNELS = (64, 128, 256, 512, 512)


@pytest.fixture(scope="module")
def vgg() -> nn.Sequential:
    """VGG-16 up to its last convolution, with fresh weights."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    channels = 3
    for width, count in zip(CHANNELS, (2, 2, 3, 3, 3), strict=True):
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


@pytest.fixture
def files(vgg, tmp_path):
    """Both files of weights."""
    torch.save({f"features.{name}": value for name, value in vgg.state_dict().items()}, tmp_path / "vgg.pth")
    linear = {f"lin{n}.model.1.weight": torch.rand(1, width, 1, 1) for n, width in enumerate(CHANNELS)}
    torch.save(linear, tmp_path / "lpips.pth")
    return tmp_path / "vgg.pth", tmp_path / "lpips.pth"


def test_the_mean_over_the_pairs_is_that_of_torch_fidelity(torch_fidelity, vgg, files, monkeypatch):
    images = list(np.random.default_rng(0).integers(0, 256, (3, 33, 48, 3), dtype=np.uint8))
    images.append(np.zeros_like(images[0]))
    module = sys.modules["torch_fidelity.sample_similarity_lpips"]

    class Whole(nn.Module):
        features = vgg

        def load_state_dict(self, state: object) -> None:
            pass

    monkeypatch.setattr(module, "load_state_dict_from_url", lambda *_, **__: torch.load(files[1]))
    monkeypatch.setattr(module.torchvision.models, "vgg16", lambda **_: Whole())
    other = module.SampleSimilarityLPIPS("lpips")
    tensors = [torch.from_numpy(image).permute(2, 0, 1)[None] for image in images]
    pairs = [float(other(a, b)) for n, a in enumerate(tensors) for b in tensors[n + 1 :]]
    assert lpips.diversity(*files)(images) == pytest.approx(np.mean(pairs), rel=1e-4)


def test_equal_images_do_not_differ(files):
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert lpips.diversity(*files)([image, image]) == 0


def test_files_of_other_weights_are_named(files):
    vgg, linear = files
    with pytest.raises(UserError, match=r"lpips\.pth are not the weights of VGG-16"):
        lpips.diversity(linear, linear)
    with pytest.raises(UserError, match=r"vgg\.pth are not the weights of LPIPS"):
        lpips.diversity(vgg, vgg)
