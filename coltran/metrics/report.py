# SPDX-License-Identifier: Apache-2.0
"""The report of `coltran.evaluate --metrics`: everything measured, how it came about, as a table and as files."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from coltran.console import LOG, is_quiet
from coltran.devices import processes
from coltran.errors import UserError
from coltran.files import written_whole
from coltran.image import list_photos
from coltran.loading import from_pretrained
from coltran.metrics import calibration, features, lpips, measure

RESULTS_SIDE = 256  # pixels to which results in a folder are brought, as their photographs are


def colourings(
    data_dir: str | Path,
    *,
    checkpoint: str | Path | None = None,
    results: Path | None = None,
    protocol: str = "B",
    samples: int = 4,
    seed: int = 0,
    limit: int | None = None,
    batch: int = 16,
    fid_weights: Path | None = None,
    frechet: bool = False,
    paper: bool = False,
    lpips_weights: Sequence[Path] | None = None,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Measures colourings of a folder of photographs, and the networks where these draw them.

    Several processes share the photographs; each returns the same report.

    Args:
        checkpoint: a folder of networks, as for `coltran.from_pretrained`.
        results: a folder of colourings; then no network is asked.
        protocol, limit: see `measure.split`.
        samples, seed, batch: see `Pipeline.colorize`.
        fid_weights: of Inception-v3; no FID where None.
        paper: see `measure.draw`.
        frechet: Frechet's distance in the features of EfficientNet-Lite2 too.
        lpips_weights: of VGG-16 and of LPIPS; no LPIPS where None.

    Raises:
        UserError, CheckpointError, PhotoError: what is missing or cannot be read.
    """
    extractors: dict[str, features.Extractor] = {}
    if fid_weights is not None:
        extractors["fid"] = features.inception(fid_weights)
    if frechet:
        extractors["frechet_efficientnet_lite2"] = features.efficientnet_lite2()
    perceptual = lpips.diversity(*lpips_weights) if lpips_weights is not None else None
    photos, reference = measure.split(list_photos([data_dir]), protocol, limit)
    how: dict[str, Any] = {"protocol": protocol, "compared": measure.PROTOCOLS[protocol]}
    how |= {"photos": len(photos), "reference_photos": len(reference)}
    share = slice(processes.rank(), None, processes.world_size())
    everything, photos, reference = photos, photos[share], reference[share]
    if results is not None:
        side, networks = RESULTS_SIDE, {}
        found = measure.read(results, everything, side, share)
        how["results"] = str(results)
    else:
        pipeline = from_pretrained(checkpoint).to(device or torch.device("cpu"))
        stage = measure.stage_of(pipeline, paper)
        side = pipeline.low if paper and stage != "final" else pipeline.high
        networks = measure.measure_networks(pipeline, photos, _progress)
        found = measure.draw(pipeline, photos, samples, seed, batch, paper)
        how |= {"checkpoint": str(checkpoint or "package"), "stage": stage, "seed": seed}
    how["resize"] = f"central square, area to {side} x {side}" + "".join(
        f"; {name}: then {features.RESIZE[name]}" for name in extractors
    )
    figures = measure.measure_colorings(photos, found, reference, side, extractors, perceptual, _progress)
    return {**how, **figures, **networks}


def _progress(part: str, done: int, total: int) -> None:
    """A progress line on a terminal's stderr, of rank 0."""
    if sys.stderr.isatty() and not is_quiet() and processes.rank() == 0:
        print(f"\r{part}: {done} of {total} ", end="\n" if done == total else "", file=sys.stderr, flush=True)


def show(report: Mapping[str, Any]) -> None:
    """Prints a report for a person and, in the last line, for a program."""
    _table(report)
    print(json.dumps(report))


def _table(report: Mapping[str, Any], indent: str = "") -> None:
    """A line for each figure, those of a network below its name."""
    for name, value in report.items():
        if isinstance(value, Mapping):
            LOG.info("%s%s", indent, name)
            _table(value, indent + "  ")
        elif not isinstance(value, list):
            text = f"{value:12.4f}" if isinstance(value, float) else str(value)
            LOG.info("%s%-28s%s", indent, name, text)


def write(report: Mapping[str, Any], output: Path) -> None:
    """Writes metrics.json into a folder, and reliability.png where the colorizer was measured.

    Raises:
        UserError: matplotlib is not installed.
        OSError: it cannot be written.
    """
    output.mkdir(parents=True, exist_ok=True)
    with written_whole(output / "metrics.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if "colorizer" in report:
        try:
            calibration.plot(report["colorizer"]["calibration"], output / "reliability.png")
        except ImportError as error:
            raise UserError("The reliability plot needs matplotlib: pip install coltran[plot].") from error
