# SPDX-License-Identifier: Apache-2.0
"""What a data set of ImageNet's size costs to start with, and how fast and in how much memory it is then read.

    python bench/loader.py --photographs 1300000 --folder build/loader

Makes the folder where it is missing: 1000 folders of JPEGs of 500 x 375 random smooth pixels, of which there are 1000;
the others are hard links to these. Then measures, each in a process of its own: searching the folder and writing the
index; a start with the index, up to the first batch of the colorizer's training at batch 32; the seconds a photograph
after it, and the memory of all its processes (their proportional shares) at the first batch and at the last one. As
other programs may have the cores too, it tells processor time beside the time on the clock. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout, in place of bench/

from bench import machine
from bench.machine import processor_seconds
from coltran import cli
from coltran.configs.colorizer import get_config
from coltran.image import list_photos
from coltran.training.data import train_batches
from coltran.training.listing import list_folder

CLASSES = 1000
BATCH = 32


def make_photographs(folder: Path, count: int) -> None:
    """`count` photographs in `CLASSES` folders, the first in each a file of its own, the others links to it."""
    for label in range(CLASSES):
        inside = folder / f"n{label:08d}"
        inside.mkdir(parents=True)
        coarse = np.random.default_rng(label).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        first = inside / f"n{label:08d}_0.JPEG"
        Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(first, quality=90)
        for n in range(1, len(range(label, count, CLASSES))):
            os.link(first, inside / f"n{label:08d}_{n}.JPEG")


def memory() -> list[float]:
    """MiB of this process and of its children, each page shared by n of them counting for an n-th."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    found = []
    for process in ["self", *children]:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        found.append(next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024)
    return found


def start_and_read(folder: Path, workers: int, batches: int) -> dict[str, Any]:
    """A training's data from its start on."""
    began, work = time.perf_counter(), processor_seconds()
    source = train_batches(get_config(), folder, "coltran_core", workers=workers)
    next(source)
    start = {"seconds": time.perf_counter() - began, "processor": processor_seconds() - work}
    before, began, work = memory(), time.perf_counter(), processor_seconds()
    for _ in range(batches):
        next(source)
    times = {"seconds": time.perf_counter() - began, "processor": processor_seconds() - work}
    a_photograph = {key: value / (batches * BATCH) for key, value in times.items()}
    return {"start": start, "a_photograph": a_photograph, "mib_first": before, "mib_last": memory()}


PARTS = {
    "list_photos": lambda folder, _, __: len(list_photos([folder])),
    "search": lambda folder, _, __: len(list_folder(folder)),
    "start": start_and_read,
}


def measure(part: str, folder: Path, cache: Path, workers: int = 0, batches: int = 1) -> dict[str, Any]:
    """A part in a process of its own: its seconds, also of the processor, and what it gives."""
    command = [sys.executable, __file__, "--folder", str(folder), "--part", part]
    command += ["--workers", str(workers), "--batches", str(batches)]
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def main() -> int:
    """The program; returns its exit code."""
    parser = cli.parser(__doc__)
    parser.add_argument("--photographs", type=cli.at_least(CLASSES), default=1_300_000)
    parser.add_argument("--folder", type=Path, default=Path("build/loader"))
    parser.add_argument("--workers", type=cli.at_least(0), default=1)
    parser.add_argument("--batches", type=cli.at_least(1), default=100)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    photos, cache = options.folder / "photographs", options.folder / "cache"
    if options.part:
        began, work = time.perf_counter(), processor_seconds()
        found = PARTS[options.part](photos, options.workers, options.batches)
        times = {"seconds": time.perf_counter() - began, "processor": processor_seconds() - work}
        print(json.dumps(times | {"found": found}))
        return 0
    if not photos.exists():
        make_photographs(photos, options.photographs)
        print(f"Made {options.photographs} photographs in {photos}", flush=True)
        time.sleep(3)  # until the folders count as unchanged
    shutil.rmtree(cache, ignore_errors=True)
    results: dict[str, Any] = {"machine": machine.describe(torch.device("cpu"))}
    for part in ("list_photos", "search"):
        results[part] = measure(part, options.folder, cache)
        print(f"{part}: {results[part]['seconds']:.2f} s for {results[part]['found']} photographs", flush=True)
    results["index_bytes"] = sum(file.stat().st_size for file in cache.rglob("*.safetensors"))
    results["start"] = measure("start", options.folder, cache, options.workers, options.batches)["found"]
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
