# SPDX-License-Identifier: Apache-2.0
"""What a run of `sample_speed` or `scaling` leaves behind: one JSON line."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.machine import ROOT, Limits
from bench.timing import Timing
from coltran.sampling import Sample

RECOMPUTING = "original's way"  # bench.recomputing, in the column of the implementations
FIXED_POINT = "fixed point"  # ours by default, with the rows drawn so
RESULTS = ROOT / "bench" / "results"


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
        limits: of the machine. A stage's least time is its work at the rate of the large product, or its reading.
        dtype: whose rate counts.
        read: bytes that have to come from the cache a batch, by stage, where reading may take longer than computing.
        rows: (timed, all) where the runs are extrapolated.
    """
    seconds = [timing.seconds for timing in timings]
    stages = {stage: statistics.median(t.stages[stage] for t in timings) for stage in timings[0].stages}
    reading = {stage: size / limits.cache_bandwidth for stage, size in read.items() if stage in stages}
    least = {stage: max(batch * work[stage] / limits.flops[dtype], reading.get(stage, 0.0)) for stage in stages}
    per_image = statistics.median(seconds) / batch
    return {
        "network": network,
        "implementation": implementation,
        "batch": batch,
        "dtype": dtype,
        "runs": seconds,
        "seconds_an_image": per_image,
        "spread": [min(seconds) / batch, max(seconds) / batch],
        "images_a_second": 1 / per_image,
        "share_of_limit": sum(work.values()) / limits.flops[dtype] / per_image,
        "peak_bytes": max((t.peak_bytes for t in timings if t.peak_bytes is not None), default=None),
        "stages": stages,
        "stage_shares": {stage: least[stage] / taken for stage, taken in stages.items() if taken > 0},
        "over_read_time": {stage: stages[stage] / least_seconds for stage, least_seconds in reading.items()},
        "extrapolated_rows": rows,
    }


def add_ratios(measurements: list[dict[str, Any]]) -> None:
    """Sets "ratio": how many times faster than the original's way on the same batch; None where that was not run."""
    slow = {m["batch"]: m["seconds_an_image"] for m in measurements if m["implementation"] == RECOMPUTING}
    for m in measurements:
        known = m["network"] == "colorizer" and m["batch"] in slow
        m["ratio"] = slow[m["batch"]] / m["seconds_an_image"] if known else None


def add_passes(measurements: list[dict[str, Any]], settled: Mapping[int, Sample]) -> None:
    """Sets "passes", a row's, and "computed", pixels for each one kept, of the rows drawn by fixed point, by batch."""
    for m in measurements:
        if m["implementation"] == FIXED_POINT:
            found = settled[m["batch"]]
            assert found.passes is not None and found.computed is not None
            m["passes"] = found.passes.double().mean().item()
            m["computed"] = found.computed.sum().item() / found.labels.numel()


def told(option: Any) -> Any:
    """An option's value as a record has it: of a path the part inside the checkout, or else its name alone."""
    if not isinstance(option, Path):
        return option
    whole = option.resolve()
    return str(whole.relative_to(ROOT)) if whole.is_relative_to(ROOT) else option.name


def append(record: Mapping[str, Any], path: Path) -> None:
    """Adds a record to a file, as one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a file that were not interrupted, the newest last; none where there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [record for record in map(json.loads, lines) if not record["interrupted"]]


def completed(path: Path) -> dict[str, Any] | None:
    """The newest record of `sample_speed`, and what it did not measure from those before it, the later first.

    Only of the same commit, processor and number of threads: a few sizes, or the other precision, can be measured by
    themselves.
    """

    def where(record: Mapping[str, Any]) -> tuple[Any, ...]:
        described = record["machine"]  # a commit may have had changes on it ("+")
        return (described["commit"] or "").rstrip("+"), described["processor"], described["threads"]

    def what(m: Mapping[str, Any]) -> tuple[Any, ...]:
        side = m["implementation"] != RECOMPUTING, m["dtype"] != "float32", m["implementation"]
        return m["network"] != "colorizer", m["network"], m["batch"], *side

    records = read(path)
    if not records:
        return None
    same = [m for record in records if where(record) == where(records[-1]) for m in record["measurements"]]
    found = {what(m): m for m in same}
    return records[-1] | {"measurements": [found[key] for key in sorted(found)]}
