# SPDX-License-Identifier: Apache-2.0
"""What colouring on a Ray cluster costs beside one process with the same cores, and whether the driver's memory grows.

    python bench/cluster.py
    python bench/cluster.py --tiny 10000

The first colours 32 photographs with the networks of the package: by one process with two threads, then by two actors
of one thread each on a Ray cluster of this machine, both without their first batches; starting the cluster and the
actors is told apart. It checks that both wrote the same pixels. The overhead is by how much longer the actors take a
photograph. As other programs may have the cores too, the actors get the priority of other processes, which Ray would
lower, and processor time a photograph is told as well, all of Ray's processes included, beside the share of the time
for which the actors had no batch. The second colours so many photographs of
12 x 15 pixels with networks of a few weights, and tells the driver's memory after a tenth of them and at the end. Each
ends with one JSON line.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout, in place of bench/

from bench import machine
from coltran import checkpoint, cli, cluster, networks
from coltran.photo import manifest
from coltran.pipeline import STAGES

DRAWING = {"seed": 0, "temperature": 1.0, "top_p": 0.9, "mode": "sample", "norm": "exact"}
WHOLE = DRAWING | {"fit": "stretch", "size": "original"}


def make_photographs(folder: Path, count: int, height: int, width: int) -> None:
    """Photographs of smooth random colours."""
    folder.mkdir()
    for n in range(count):
        coarse = np.random.default_rng(n).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(folder / f"p{n:05d}.png")


def tiny_networks(folder: Path) -> None:
    """A checkpoint of a colorizer of 8 x 8 pixels."""
    sizes = {"hidden_size": 8, "ff_size": 8, "num_heads": 1}
    decoder = sizes | {"num_outer_layers": 1, "num_inner_layers": 1}
    section = {"name": "coltran_core", "resolution": [8, 8], "encoder": sizes | {"num_encoder_layers": 1}}
    checkpoint.save(networks.build(section | {"decoder": decoder}), folder / "colorizer")


def order(output: Path, weights: Path | None, batch: int, stage: str) -> cluster.Order:
    """One colouring of each photograph, as PNG."""
    output.mkdir()
    drawing = WHOLE | {"stage": stage}
    where = str(weights) if weights else None
    return cluster.Order(str(output), drawing, where, "cpu", 1, 1, batch, "png", 95)


def throughput(folder: Path, count: int, batch: int, stage: str) -> dict[str, Any]:
    """Seconds a photograph of one process with two threads, and of two actors with one each."""
    make_photographs(folder / "photographs", count, 300, 400)
    photos, _ = cluster.find_photos([str(folder / "photographs")], folder / "none")
    names = list(photos.items())

    alone = cluster.Colourist(order(folder / "alone", None, batch, stage), 2)
    columns = {"path": [path for path, _ in names], "name": [name for _, name in names]}
    tables = [pa.table({key: column[n : n + batch] for key, column in columns.items()}) for n in range(0, count, batch)]
    alone(tables[0])  # warms up
    began, work = time.perf_counter(), time.process_time()
    for table in tables[1:]:
        alone(table)
    spent = {"seconds": time.perf_counter() - began, "processor": time.process_time() - work}
    one = {key: value / (count - batch) for key, value in spent.items()}

    os.environ["RAY_worker_niceness"] = str(os.getpriority(os.PRIO_PROCESS, 0))  # noqa: SIM112 (Ray spells it so)
    asked = time.perf_counter()
    arrivals: list[tuple[float, float, float]] = []  # time, seconds that the batch took, processor time until then
    for rows in cluster.results(names, order(folder / "cluster", None, batch, stage), "local", 2, 1):
        arrivals.append((time.perf_counter(), sum(rows["seconds"].to_pylist()), machine.processor_seconds()))
    for name in photos.values():
        pixels = [(folder / who / f"{name}-0.png").read_bytes() for who in ("alone", "cluster")]
        assert pixels[0] == pixels[1], f"the pixels of {name} differ"
    began = min(at - took for at, took, _ in arrivals)
    counted = count - 2 * batch  # from the second arrival on: both actors have warmed up
    span = arrivals[-1][0] - arrivals[1][0]
    two = {"seconds": span / counted, "processor": (arrivals[-1][2] - arrivals[1][2]) / counted}
    return {
        "photographs": count,
        "batch": batch,
        "stage": stage,
        "one_process": one,
        "two_actors": two,
        "overhead": two["seconds"] / one["seconds"] - 1,
        "start": began - asked,
        "idle": 1 - sum(took for _, took, _ in arrivals) / (2 * (arrivals[-1][0] - began)),
    }


def driver_memory(folder: Path, count: int) -> dict[str, Any]:
    """MiB of the driver as the rows of tiny photographs come."""
    make_photographs(folder / "photographs", count, 12, 15)
    tiny_networks(folder / "weights")
    photos, _ = cluster.find_photos([str(folder / "photographs")], folder / "none")
    made = order(folder / "cluster", folder / "weights", 16, "coarse")
    kept = manifest.Manifest(folder / "cluster", made.options())
    began, done, early = time.perf_counter(), 0, 0.0
    for rows in cluster.results(list(photos.items()), made, "local", 2, 1):
        kept.add(rows)
        done += len(rows)
        if not early and done >= count // 10:
            early = resident()
    late = resident()
    kept.close()
    assert len(manifest.read(folder / "cluster")) == count
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = time.perf_counter() - began
    return {"photographs": count, "seconds": seconds, "mib_tenth": early, "mib_end": late, "mib_peak": peak}


def resident() -> float:
    """MiB of this process in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def main() -> int:
    """The program; returns its exit code."""
    parser = cli.parser(__doc__)
    parser.add_argument("--photographs", type=cli.at_least(16), default=32)
    parser.add_argument("--batch", type=cli.at_least(1), default=4)
    parser.add_argument(
        "--stage", choices=STAGES, default="final", help="the less work, the larger Ray's share (final)"
    )
    parser.add_argument("--tiny", type=cli.at_least(100), help="measure memory with so many tiny photographs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.tiny:
            found = driver_memory(Path(folder), options.tiny)
        else:
            found = throughput(Path(folder), options.photographs, options.batch, options.stage)
    print(json.dumps({"machine": machine.describe(torch.device("cpu")), **found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
