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
    limits: list[Limits],
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
        limits: of the machine, round each run.
        dtype: whose rate counts.
        read: as for `seconds_at_limit`.
        rows: (timed, all) where the runs are extrapolated.
    """
    seconds = [timing.seconds for timing in timings]
    stages = median_stages(timings)
    per_image = statistics.median(seconds) / batch
    rates = [of_run.flops[dtype] for of_run in limits]
    shares = {
        stage: [
            seconds_at_limit(stage, work, batch, of_run, dtype, read) / timing.stages[stage]
            for timing, of_run in zip(timings, limits, strict=True)
            if timing.stages[stage] > 0
        ]
        for stage in stages
    }
    over_read = {
        stage: [
            timing.stages[stage] / (size / of_run.cache_bandwidth)
            for timing, of_run in zip(timings, limits, strict=True)
        ]
        for stage, size in read.items()
        if stage in stages
    }
    peaks = [timing.peak_bytes for timing in timings if timing.peak_bytes is not None]
    return {
        "network": network,
        "implementation": implementation,
        "batch": batch,
        "runs": seconds,
        "seconds_an_image": per_image,
        "spread": [min(seconds) / batch, max(seconds) / batch],
        "images_a_second": 1 / per_image,
        "share_of_limit": statistics.median(
            batch * sum(work.values()) / rate / run for rate, run in zip(rates, seconds, strict=True)
        ),
        "rates": rates,
        "peak_bytes": max(peaks) if peaks else None,
        "stages": stages,
        "stage_shares": {stage: statistics.median(found) for stage, found in shares.items() if found},
        "over_read_time": {stage: statistics.median(found) for stage, found in over_read.items()},
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


def newest(path: Path) -> dict[str, Any] | None:
    """The last record of a file that was not interrupted; None where there is none."""
    if not path.is_file():
        return None
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    whole = [record for record in records if not record["interrupted"]]
    return whole[-1] if whole else None
