# SPDX-License-Identifier: Apache-2.0
"""What a run of `sample_speed` leaves behind: one JSON line."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.machine import Limits
from bench.timing import Timing, median_stages

RECOMPUTING = "original's way"  # bench.reference, in the column of the implementations
RESULTS = Path(__file__).resolve().parent / "results"


def extrapolate(timing: Timing, rows: int, height: int) -> Timing:
    """A run of the original's algorithm over its first rows, as a run over all.

    A row costs the same wherever it is. The outer decoder is not run after the last.
    """
    if rows == height:
        return timing
    factors = {"encoder": 1.0, "inner decoder": height / rows, "outer decoder": (height - 1) / rows}
    stages = {stage: seconds * factors[stage] for stage, seconds in timing.stages.items()}
    return Timing(sum(stages.values()), stages, timing.peak_bytes)


def seconds_at_limit(
    stage: str, work: Mapping[str, float], batch: int, limits: Limits, dtype: str, read: Mapping[str, float]
) -> float:
    """The least time of a stage for a batch: its operations at the rate of the large product, or its reading.

    Args:
        stage: its name.
        work: floating-point operations an image, by stage.
        batch: images.
        limits: of the machine.
        dtype: whose rate counts.
        read: bytes that have to come from the cache a batch, by stage, where reading may take longer than computing.
    """
    return max(batch * work[stage] / limits.flops[dtype], read.get(stage, 0.0) / limits.cache_bandwidth)


def measurement(
    network: str,
    implementation: str,
    batch: int,
    timings: list[Timing],
    work: Mapping[str, float],
    limits: Limits,
    dtype: str,
    *,
    read: Mapping[str, float],
    rows: tuple[int, int] | None,
) -> dict[str, Any]:
    """What the runs of one side come to.

    Args:
        network: "colorizer", "color_upsampler" or "spatial_upsampler".
        implementation: its name, or `RECOMPUTING`.
        batch: images a run.
        timings: at least one.
        work: floating-point operations an image, by stage.
        limits: of the machine.
        dtype: whose rate counts.
        read: as for `seconds_at_limit`.
        rows: (timed, all) where the runs are extrapolated.
    """
    seconds = [timing.seconds for timing in timings]
    stages = median_stages(timings)
    per_image = statistics.median(seconds) / batch
    peaks = [timing.peak_bytes for timing in timings if timing.peak_bytes is not None]
    return {
        "network": network,
        "implementation": implementation,
        "batch": batch,
        "runs": seconds,
        "seconds_an_image": per_image,
        "spread": [min(seconds) / batch, max(seconds) / batch],
        "images_a_second": 1 / per_image,
        "share_of_limit": sum(work.values()) / limits.flops[dtype] / per_image,
        "peak_bytes": max(peaks) if peaks else None,
        "stages": stages,
        "stage_shares": {
            stage: seconds_at_limit(stage, work, batch, limits, dtype, read) / taken
            for stage, taken in stages.items()
            if taken > 0
        },
        "over_read_time": {
            stage: stages[stage] / (size / limits.cache_bandwidth) for stage, size in read.items() if stage in stages
        },
        "extrapolated_rows": rows,
    }


def add_ratios(measurements: list[dict[str, Any]]) -> None:
    """Sets "ratio": how many times faster than the original's way on the same batch; None where that was not run."""
    slow = {m["batch"]: m["seconds_an_image"] for m in measurements if m["implementation"] == RECOMPUTING}
    for m in measurements:
        known = m["network"] == "colorizer" and m["batch"] in slow
        m["ratio"] = slow[m["batch"]] / m["seconds_an_image"] if known else None


def append(record: Mapping[str, Any], path: Path) -> None:
    """Adds a record to a file, as one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def _whole(path: Path) -> list[dict[str, Any]]:
    """The records of a file that were not interrupted; none where there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [record for record in map(json.loads, lines) if not record["interrupted"]]


def newest(path: Path) -> dict[str, Any] | None:
    """The last record of a file that was not interrupted; None where there is none."""
    return next(reversed(_whole(path)), None)


def _where(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """What has to be the same for two records to complete each other; a commit may have had changes on it ("+")."""
    described = record["machine"]
    return (described["commit"] or "").rstrip("+"), described["processor"], described["threads"]


def completed(path: Path) -> dict[str, Any] | None:
    """The newest record of `sample_speed`, and what it did not measure from those before it, the later first.

    Only of the same commit, processor and number of threads: a few sizes can be measured again by themselves.
    """
    last = newest(path)
    if last is None:
        return None
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record in reversed(_whole(path)):
        for m in record["measurements"] if _where(record) == _where(last) else ():
            found.setdefault((m["network"], m["batch"], m["implementation"]), m)
    order = sorted(found, key=lambda key: (key[0] != "colorizer", *key[:2], key[2] != RECOMPUTING))
    return last | {"measurements": [found[key] for key in order]}
