# SPDX-License-Identifier: Apache-2.0
"""A report on colourings, drawn on the fly by a pipeline or read from a folder of results, and on the networks.

Which photographs are coloured and which they are compared with is the protocol:

    A   n photographs are coloured, the n that follow them in name order are the reference (n = 5,000 of ImageNet's
        validation set is where the paper's FID of 19.37 stands)
    B   the same n photographs are both (as most later papers do: about a third of A's figure for the same colourings)

Distances between features depend on the protocol, on n and on how images are resized, so a report names all three.
Where several processes work together, process r of p measures the photographs r, r + p, r + 2 p, ...; what is measured
of each is put in order again before any mean is taken, so the figures are those of one process.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from coltran.devices import processes
from coltran.errors import UserError
from coltran.image import area_resize, center_square, colors_to_labels, list_photos, load_photo, rgb_to_gray, to_bits
from coltran.metrics.arithmetic import (
    SSIM_SIDE,
    ab_error,
    chroma,
    colorfulness,
    diversity,
    frechet_distance,
    psnr,
    ssim,
)
from coltran.metrics.calibration import BINS, reliability, tally
from coltran.metrics.features import Extractor
from coltran.metrics.lpips import Diversity
from coltran.networks.guide import SCALE
from coltran.networks.losses import bits
from coltran.pipeline import DEFAULT_STAGE, NETWORKS, Pipeline

PROTOCOLS = {
    "A": "the coloured photographs against as many others, which follow them in name order",
    "B": "the coloured photographs against the same photographs",
}
MOST = 5000  # photographs of either protocol
TOGETHER = 8  # photographs at once
TOP_P = 0.9  # the programs' default
SPATIAL = 64  # photographs that the spatial upsampler is measured on: each has 200 thousand values, which take a while
OF_COLOURINGS = (
    "ab_error_top1", "ab_error_best", "ab_error_mean", "ab_error_gray", "chroma", "chroma_truth", "diversity",
    "diversity_lpips", "colourfulness", "colourfulness_truth",
)  # fmt: skip
OF_FEATURES = ("distance_top1", "distance_best", "distance_mean", "distance_gray")
OF_NETWORKS = ("bits_per_dimension", "bits_per_pixel", "psnr", "ssim")

Progress = Callable[[str, int, int], None]  # (part, done, total)


@dataclass(frozen=True)
class Samples:
    """The colourings of one photograph."""

    images: list[np.ndarray]  # uint8 [S, S, 3]; Frechet's distance is that of the features of the first
    top1: int  # which of them a person gets who asks for one of the best; of a folder, the first


def square(path: Path, side: int) -> np.ndarray:
    """The central square of a photograph, uint8 [side, side, 3], as the networks were trained on."""
    return area_resize(center_square(load_photo(path)), side)


def split(photos: Sequence[Path], protocol: str, limit: int | None = None) -> tuple[list[Path], list[Path]]:
    """The photographs to colour, at most `limit` and `MOST`, and those to compare with.

    Raises:
        UserError: fewer than two of either: a covariance needs two.
    """
    count = min(limit or MOST, MOST, len(photos) // 2 if protocol == "A" else len(photos))
    if count < 2:
        raise UserError(f"Protocol {protocol} colours at least 2 photographs{' of 4' if protocol == 'A' else ''}.")
    return list(photos[:count]), list(photos[count : 2 * count] if protocol == "A" else photos[:count])


def stage_of(pipeline: Pipeline, paper: bool) -> str:
    """Whose colours are measured: the default's, or with `paper` the last network's, or what can be reached of it."""
    wanted = DEFAULT_STAGE["network" if paper else "original"]
    return wanted if wanted in pipeline.stages else pipeline.stages[-1]


def draw(
    pipeline: Pipeline, photos: Sequence[Path], samples: int, seed: int, batch: int = 16, paper: bool = False
) -> Iterator[Samples]:
    """Colours the central squares of photographs, as a person gets them by default.

    With `paper` as the paper does: the images that the networks draw, from their own distribution.
    """
    options: dict[str, Any] = {"top_p": TOP_P}
    if paper:
        options = {"fit": "crop", "size": "network", "guidance": 0.0}
    options["stage"] = stage_of(pipeline, paper)
    for first in range(0, len(photos), TOGETHER):
        squares = [square(path, pipeline.high) for path in photos[first : first + TOGETHER]]
        for found in pipeline.colorize(squares, samples=samples, seed=seed, batch_size=batch, **options):
            yield Samples(found.images, found.ranking()[0])


def read(folder: Path, photos: Sequence[Path], side: int, share: slice = slice(None)) -> Iterator[Samples]:
    """Results that lie in a folder: of old.jpg old-0.png, old-1.png, ..., as `coltran.colorize` writes, or old.png.

    Args:
        folder: with the results.
        photos: all that were coloured, by whose names the results are told apart.
        side: pixels a side to which the results are brought.
        share: those of the photographs whose results are given.

    Raises:
        UserError: a photograph has none, or the names leave open whose one is.
    """
    named: dict[str, Path] = {}
    for photo in photos:
        if photo.stem in named:
            raise UserError(
                f"{named[photo.stem]} and {photo} have the same name, so their results cannot be told apart."
            )
        named[photo.stem] = photo
    results: dict[str, dict[int, Path]] = {}
    for path in list_photos([folder]):
        match = None if path.stem in named else re.fullmatch(r"(.+)-(\d+)", path.stem)
        name, number = (match[1], int(match[2])) if match else (path.stem, 0)
        if results.setdefault(name, {}).setdefault(number, path) != path:
            raise UserError(f"{results[name][number]} and {path} would be the same result.")
    for photo in photos[share]:
        if photo.stem not in results:
            raise UserError(f"{folder} has no result of {photo}: no image {photo.stem}-0 or {photo.stem}.")
        yield Samples([square(path, side) for _, path in sorted(results[photo.stem].items())], 0)


def measure_colorings(
    photos: Sequence[Path],
    found: Iterable[Samples],
    reference: Sequence[Path],
    side: int,
    extractors: Mapping[str, Extractor],
    lpips: Diversity | None = None,
    progress: Progress = lambda part, done, total: None,
) -> dict[str, Any]:
    """Figures of colourings, each the mean over the photographs.

    Args:
        photos: what was coloured; of several processes each brings its share, of all lists.
        found: their colourings, in the same order, of `side` x `side` pixels.
        reference: what the features of the first colourings are compared with.
        extractors: {name of a distance: its features}.
        lpips: the diversity by LPIPS too, of images of at least 16 pixels a side.

    Returns:
        `ab_error_top1` of the colouring that comes first, `ab_error_best` of the nearest of `samples`, `ab_error_mean`
        of all, `ab_error_gray` of none, `diversity` where there are several (all distances in CIELAB's a and b), and
        `diversity_lpips`; `chroma` of the first and `chroma_truth`, and `chroma_correlation` over the photographs;
        `colourfulness`, `colourfulness_truth` and `colourfulness_difference`; each Frechet distance under its name, and
        in the same features 1 - cosine to the photograph's own, `NAME_distance_top1` and so on as of `ab_error`.
    """
    counts, rows = [], []
    features: dict[str, list[np.ndarray]] = {name: [] for name in extractors}
    apart: dict[str, list[list[float]]] = {name: [] for name in extractors}
    for n, (path, samples) in enumerate(zip(photos, found, strict=True)):
        truth = square(path, side)
        errors = [ab_error(image, truth) for image in samples.images]
        several = len(errors) > 1
        spread = diversity(samples.images) if several else np.nan
        seen = lpips(samples.images) if several and lpips is not None else np.nan
        colours = float(np.mean([colorfulness(image) for image in samples.images]))
        chromas = [
            float(np.linalg.norm(chroma(image), axis=-1).mean()) for image in (samples.images[samples.top1], truth)
        ]
        gray = np.repeat(rgb_to_gray(truth)[..., None], 3, -1)
        of_errors = [errors[samples.top1], min(errors), float(np.mean(errors)), ab_error(gray, truth)]
        rows.append([*of_errors, *chromas, spread, seen, colours, colorfulness(truth)])
        for name, extract in extractors.items():
            found_here = extract(np.stack([*samples.images, gray, truth]))
            features[name].append(found_here[0])
            *of_samples, of_gray = (1 - _cosine(one, found_here[-1]) for one in found_here[:-1])
            apart[name].append([of_samples[samples.top1], min(of_samples), float(np.mean(of_samples)), of_gray])
        counts.append([len(errors)])
        progress("colourings", n + 1, len(photos))
    table = _of_all(rows)
    result: dict[str, Any] = {"samples": int(_of_all(counts).min())} | _means(OF_COLOURINGS, table)
    if len(table) > 1:
        first, of_truth = (table[:, OF_COLOURINGS.index(name)] for name in ("chroma", "chroma_truth"))
        result["chroma_correlation"] = float(np.corrcoef(first, of_truth)[0, 1])
    for name in extractors:
        result |= _means([f"{name}_{figure}" for figure in OF_FEATURES], _of_all(apart[name]))
    result["colourfulness_difference"] = result["colourfulness"] - result["colourfulness_truth"]
    truths: dict[str, list[np.ndarray]] = {name: [] for name in extractors}
    for n, path in enumerate(reference if extractors else ()):
        image = square(path, side)[None]
        for name, extract in extractors.items():
            truths[name].append(extract(image)[0])
        progress("reference", n + 1, len(reference))
    distances = {name: frechet_distance(_of_all(features[name]), _of_all(truths[name])) for name in extractors}
    return result | distances


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


measure_colourings = measure_colorings  # its name up to 0.1; goes in 0.3


def _of_all(rows: Sequence[Sequence[float] | np.ndarray]) -> np.ndarray:
    """The rows [N, k] of all processes, in the photographs' order, float64."""
    ours = np.array(rows, np.float64) if rows else np.empty((0, 0))
    return processes.gather_interleaved(torch.from_numpy(ours)).numpy()


def _means(names: Sequence[str], table: np.ndarray) -> dict[str, float]:
    """The mean of each column [N, k] where it is finite, which the PSNR of an image without any error is not.

    Columns that nowhere are finite are left out.
    """
    columns = zip(names, table.T, strict=False)  # the last of `names` are not measured of every network
    return {name: float(column[ok].mean()) for name, column in columns if (ok := np.isfinite(column)).any()}


@torch.no_grad()
def measure_networks(
    pipeline: Pipeline, photos: Sequence[Path], progress: Progress = lambda part, done, total: None
) -> dict[str, Any]:
    """Likelihood and calibration of the colorizer, likelihood, PSNR and SSIM of the upsamplers.

    The guide and the colorizer's parallel head are given the gray photograph alone.

    Every network is given the true input and, before each pixel, the true ones (teacher forcing). The upsamplers'
    images are their most probable values. A colorizer's dimension is a channel of three bits, so a pixel has three; an
    upsampler's is a channel value of eight.

    Args:
        photos: of several processes each brings its share.

    Returns:
        {network: its figures}; the spatial upsampler on the first `SPATIAL` photographs only.
    """
    calibrated = []
    rows: dict[str, list[list[float]]] = {name: [] for name in NETWORKS if getattr(pipeline, name) is not None}
    if getattr(pipeline.colorizer, "parallel_logits", None) is not None:
        rows["parallel_head"] = []
    device = pipeline.device
    for n, path in enumerate(photos):
        large = square(path, pipeline.high)
        small = area_resize(large, pipeline.low)
        rgb = torch.from_numpy(small)[None].to(device)
        labels = colors_to_labels(to_bits(rgb, 8, 3))
        output = pipeline.colorizer(rgb)
        logits = output.logits
        per_pixel = float(bits(logits, labels))
        if output.parallel_logits is not None:
            alone = float(bits(output.parallel_logits, labels))
            rows["parallel_head"].append([alone / 3, alone])
        if pipeline.guide is not None:
            seen = square(path, SCALE * pipeline.low)
            gray, target = (
                torch.from_numpy(x)[None].to(device) for x in (rgb_to_gray(seen), area_resize(seen, pipeline.low))
            )
            alone = float(bits(pipeline.guide(gray), colors_to_labels(to_bits(target, 8, 3))))
            rows["guide"].append([alone / 3, alone])
        rows["colorizer"].append([per_pixel / 3, per_pixel])
        calibrated.append(tally(logits.softmax(-1), labels).flatten().numpy())
        if pipeline.color_upsampler is not None:
            rows["color_upsampler"].append(_upsampled(pipeline.color_upsampler, small, to_bits(small, 8, 3), device))
        if pipeline.spatial_upsampler is not None and n * processes.world_size() + processes.rank() < SPATIAL:
            row = _upsampled(pipeline.spatial_upsampler, large, area_resize(small, pipeline.high), device)
            rows["spatial_upsampler"].append(row)
        progress("networks", n + 1, len(photos))
    result: dict[str, Any] = {}
    for name, ours in rows.items():
        table = _of_all(ours)
        result[name] = {"photos": len(table)} | _means(OF_NETWORKS, table)
    counts = torch.from_numpy(_of_all(calibrated).sum(0)).view(2, 3, BINS)
    result["colorizer"]["calibration"] = reliability(counts)
    return result


def _upsampled(network: nn.Module, truth: np.ndarray, given: np.ndarray, device: torch.device) -> list[float]:
    """`OF_NETWORKS` of an upsampler on one image, uint8 [S, S, 3] both; no SSIM of an image below its window."""
    rgb = torch.from_numpy(truth)[None].to(device)
    logits = network(torch.from_numpy(given)[None].to(device), rgb_to_gray(rgb))
    per_value = float(bits(logits, rgb))
    image = logits.argmax(-1)[0].to(torch.uint8).cpu().numpy()
    return [per_value, 3 * per_value, psnr(image, truth), ssim(image, truth) if len(truth) >= SSIM_SIDE else np.nan]
