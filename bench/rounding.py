# SPDX-License-Identifier: Apache-2.0
"""What products in bfloat16 change: bits of the true colours, and pixels of images that leave nothing to chance.

    python bench/rounding.py ../shared/photos/valid
    python bench/rounding.py ../shared/photos/valid --paper

Takes photographs, evenly spaced in the folder's order, through the networks in the package, or with --paper through a
colorizer of the paper's size with random weights, in either precision. The upsamplers get the true input. Prints a
line a figure; needs a processor with units for bfloat16.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout, in place of bench/

from bench import setting
from coltran import cli
from coltran.configs import colorizer as paper
from coltran.image import area_resize, center_square, load_photo, rgb_to_gray
from coltran.networks import Colorizer
from coltran.networks.dense import products_in
from coltran.networks.losses import compute_losses
from coltran.pipeline import from_pretrained
from coltran.sampling import sample, upsample_color, upsample_space


def in_both(run: Callable[[str], Any]) -> tuple[Any, Any]:
    """What is had in float32 and in bfloat16."""
    return run("float32"), run("bfloat16")


def bits(network: Colorizer, rgb: Tensor) -> np.ndarray:
    """Bits a pixel of the true coarse colours of each image [B, 64, 64, 3], in either precision: [2, B]."""

    @torch.no_grad()
    def of(precision: str) -> list[float]:
        with products_in(precision):
            return [
                float(compute_losses(network, {"rgb": image[None]}, paper.get_config(), training=False)["loss"])
                for image in rgb
            ]

    return np.array(in_both(of))


def of_colorizer(network: Colorizer, rgb: Tensor, argmax: int) -> Iterator[str]:
    """Its figures, the likeliest colours of the first `argmax` photographs."""
    found = bits(network, rgb)
    change = found[1] - found[0]
    yield (
        f"bits a pixel, {len(rgb)} photographs: {found[0].mean():.4f}, in bfloat16 {change.mean():+.5f}, "
        f"one image at most {abs(change).max():.4f}"
    )
    gray = rgb_to_gray(rgb[:argmax])
    wide, narrow = in_both(lambda precision: sample(network, gray, mode="argmax", precision=precision).labels)
    median = (wide != narrow).double().mean((1, 2)).median().item()
    yield (
        f"coarse colours that differ, each the likeliest, {argmax} photographs: {_share(wide, narrow)}, "
        f"the median of them {median:.1%}"
    )


def _share(a: Tensor, b: Tensor) -> str:
    return f"{(a != b).double().mean().item():.1%}"


def of_upsampler(upsample: Callable[..., Tensor], network: Any, given: Tensor, gray: Tensor) -> str:
    """How many values differ, and by how much."""
    wide, narrow = in_both(lambda precision: upsample(network, given, gray, precision=precision))
    levels = (wide.int() - narrow.int()).abs().double().mean().item()
    return f"{_share(wide, narrow)} of {len(gray)} photographs, by {levels:.2f} levels on the mean"


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    parser = cli.parser(__doc__)
    parser.add_argument("photos", type=Path, help="folder of photographs")
    parser.add_argument("--images", type=cli.at_least(1), default=32, help="photographs (default: 32)")
    parser.add_argument("--argmax", type=cli.at_least(1), default=16, help="of them, to draw and refine (default: 16)")
    parser.add_argument("--space", type=cli.at_least(1), default=4, help="of them, to bring to 256 x 256 (default: 4)")
    parser.add_argument("--paper", action="store_true", help="a colorizer of the paper's size with random weights")
    options = parser.parse_args(argv)
    squares = [center_square(load_photo(file)) for file in setting.spaced_photos(options.photos, options.images)]

    def resized(count: int, side: int) -> Tensor:
        return torch.from_numpy(np.stack([area_resize(square, side) for square in squares[:count]]))

    rgb = resized(options.images, 64)
    if options.paper:
        network = setting.build(setting.load_models(setting.PAPER, ["colorizer"])["colorizer"], torch.device("cpu"))
        assert isinstance(network, Colorizer)
        print(*of_colorizer(network, rgb, options.argmax), sep="\n")
        return 0
    pipeline = from_pretrained()
    print(*of_colorizer(pipeline.colorizer, rgb, options.argmax), sep="\n")
    small = rgb[: options.argmax]
    print("colour upsampler:", of_upsampler(upsample_color, pipeline.color_upsampler, small, rgb_to_gray(small)))
    gray = rgb_to_gray(resized(options.space, 256))
    large = torch.from_numpy(np.stack([area_resize(image, 256) for image in rgb[: options.space].numpy()]))
    print("spatial upsampler:", of_upsampler(upsample_space, pipeline.spatial_upsampler, large, gray))
    return 0


if __name__ == "__main__":
    cli.run(main)
