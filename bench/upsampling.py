# SPDX-License-Identifier: Apache-2.0
"""Which value to take out of an upsampler's distributions: how far each estimate is from the truth.

    python bench/upsampling.py --photos ../shared/photos/valid --count 64 --spatial 8

Each upsampler is given its true input, so nothing is drawn. A line for each network and estimate: the root of the
mean squared error of a channel's value, and the distance in CIELAB's a and b: its mean over the pixels, and what one
pixel in a thousand exceeds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout, in place of bench/

from bench import tables
from coltran import cli
from coltran.image import area_resize, center_square, list_photos, load_photo, rgb_to_gray, to_bits
from coltran.metrics.arithmetic import chroma
from coltran.networks import ColorUpsampler, SpatialUpsampler
from coltran.pipeline import from_pretrained
from coltran.sampling.estimates import ESTIMATES


@torch.no_grad()
def errors(
    network: ColorUpsampler | SpatialUpsampler, truth: np.ndarray, given: Tensor
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """For one image, each estimate's name, its errors [H, W, 3] and its distances in a and b [H, W].

    Args:
        network: in evaluation mode.
        truth: uint8 [H, W, 3].
        given: the network's input, integers [1, H, W, 3].
    """
    logits = network(given, rgb_to_gray(torch.from_numpy(truth)[None]))
    for name, estimate in ESTIMATES.items():
        image = estimate(logits)[0].numpy()
        yield name, image.astype(np.float64) - truth, np.linalg.norm(chroma(image) - chroma(truth), axis=-1)


def summary(
    network: ColorUpsampler | SpatialUpsampler, truths: list[np.ndarray], inputs: list[Tensor]
) -> list[dict[str, Any]]:
    """The figures of each estimate over all images; arguments as for `errors`, of several images."""
    squares: dict[str, list[float]] = {name: [] for name in ESTIMATES}
    distances: dict[str, list[np.ndarray]] = {name: [] for name in ESTIMATES}
    for truth, given in zip(truths, inputs, strict=True):
        for name, difference, distance in errors(network, truth, given):
            squares[name].append(float((difference**2).mean()))
            distances[name].append(distance.ravel())
    return [
        {
            "network": type(network).__name__,
            "images": len(truths),
            "estimate": name,
            "rmse": float(np.sqrt(np.mean(squares[name]))),
            "ab": float(np.concatenate(distances[name]).mean()),
            "ab, worst 0.1 %": float(np.quantile(np.concatenate(distances[name]), 0.999)),
        }
        for name in ESTIMATES
    ]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = cli.parser(__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--count", type=cli.at_least(1), default=64, help="photographs for the first (default: 64)")
    parser.add_argument("--spatial", type=cli.at_least(1), default=8, help="and for the second upsampler (default: 8)")
    parser.add_argument("--checkpoint", help="folder of the networks (default: those in the package)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    arguments = parse(argv)
    pipeline = from_pretrained(arguments.checkpoint)
    assert pipeline.color_upsampler is not None and pipeline.spatial_upsampler is not None
    paths = list_photos([arguments.photos])[: max(arguments.count, arguments.spatial)]
    large = [area_resize(center_square(load_photo(path)), pipeline.high) for path in paths]
    small = [area_resize(image, pipeline.low) for image in large]
    coarse = [to_bits(torch.from_numpy(image)[None], 8, 3) for image in small[: arguments.count]]
    rows = summary(pipeline.color_upsampler, small[: arguments.count], coarse)
    enlarged = [torch.from_numpy(area_resize(image, pipeline.high))[None] for image in small[: arguments.spatial]]
    rows += summary(pipeline.spatial_upsampler, large[: arguments.spatial], enlarged)
    cells = [[f"{x:.2f}" if isinstance(x, float) else str(x) for x in row.values()] for row in rows]
    tables.console().print(tables.to_rich(tables.Table("Errors of the upsamplers", list(rows[0]), cells)))
    print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    cli.run(main)
