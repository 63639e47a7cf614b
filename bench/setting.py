# SPDX-License-Identifier: Apache-2.0
"""What is measured: random networks and images, and how they are drawn and upsampled.

Speed does not depend on what the weights are, so none need to be trained or fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coltran import cli, networks
from coltran.networks.colorizer import Colorizer
from coltran.networks.upsamplers import ColorUpsampler, SpatialUpsampler
from coltran.sampling import sample, upsample_color, upsample_space

STAGES = ("colorizer", "color_upsampler", "spatial_upsampler")
PAPER = Path(__file__).resolve().parent.parent / "coltran" / "configs" / "colorizer.py"


def load_models(config: Path = PAPER, stages: Iterable[str] = STAGES) -> dict[str, dict[str, Any]]:
    """The `model` sections of the stages, from the colorizer's configuration file and its neighbours.

    Raises:
        UserError: there is no such file, or it is no configuration.
    """
    paths = {stage: config.with_name(config.name.replace("colorizer", stage)) for stage in stages}
    return {stage: networks.model_config(cli.load_config(path)) for stage, path in paths.items()}


def build(model: Mapping[str, Any], device: torch.device) -> nn.Module:
    """The network of a `model` section, with the same random weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return networks.build(model).to(device).eval()


def random_images(batch: int, model: Mapping[str, Any], device: torch.device) -> Tensor:
    """Images uint8 [B, H, W, 3], the same every time."""
    generator = torch.Generator().manual_seed(1)
    size = (batch, *model["resolution"], 3)
    return torch.randint(256, size, generator=generator, dtype=torch.uint8).to(device)


def upsample(network: nn.Module, images: Tensor, **options: Any) -> Tensor:
    """What `coltran.sampling` does with an upsampler of either kind, on images [B, H, W, 3]."""
    if isinstance(network, ColorUpsampler):
        return upsample_color(network, images, images[..., 0], **options)
    assert isinstance(network, SpatialUpsampler)
    return upsample_space(network, images, images[..., 0], **options)


def run(
    network: nn.Module, images: Tensor, precision: str, finished: Callable[[str], None] = lambda stage: None
) -> None:
    """Draws or upsamples images [B, H, W, 3], of which a colorizer gets the first channel."""
    if isinstance(network, Colorizer):
        sample(network, images[..., 0], finished=finished, seed=0, precision=precision)
    else:
        upsample(network, images, precision=precision)
        finished("upsampler")
