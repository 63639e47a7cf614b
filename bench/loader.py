# SPDX-License-Identifier: Apache-2.0
"""What a data set of ImageNet's size costs to start with, and how fast and in how much memory it is then read.

    python bench/loader.py --photographs 1300000 --folder build/loader

Makes the folder where it is missing: 1000 folders of JPEGs of 500 x 375 random smooth pixels, of which there are 1000;
the others are hard links to these. Then measures, each in a process of its own: searching the folder and writing the
index; a start with the index, up to the first batch of the colorizer's training at batch 32; the seconds a photograph
after it, and the memory of all its processes (their proportional shares) at the first batch and at the last one. As
other programs may have the cores too, it tells processor time beside the time on the clock. Ends with one JSON line.

    python bench/loader.py --images ../shared/photos/train

measures the images a second and core that the training of `medium_colorizer.py` would get, of this folder and of 24
photographs of it enlarged to 12 megapixels, decoded each time (`jpeg_draft`) and decoded once (`memory_map` too),
by the processor time of one thread.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
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
from coltran.configs import medium_colorizer
from coltran.configs.colorizer import get_config
from coltran.image import list_photos
from coltran.training.data import train_batches
from coltran.training.listing import list_folder

CLASSES = 1000
BATCH = 32
LARGE = 4000, 3000


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


def images_a_second(folder: Path, batches: int) -> dict[str, dict[str, float]]:
    """Decoded and mapped: the first batch's seconds, images a second after it, medians of five rounds in turn."""
    sources, first, seconds = {}, {}, {}
    for name in ("decoded", "mapped"):
        config = medium_colorizer.get_config()
        config.update(jpeg_draft=True, memory_map=name == "mapped")
        began = time.process_time()
        sources[name] = train_batches(config, folder, "coltran_core", workers=0)
        first[name] = next(sources[name])["rgb"]
        seconds[name] = time.process_time() - began
    if not torch.equal(first["decoded"], first["mapped"]):
        raise SystemExit("Mapped photographs differ from decoded ones.")
    rates: dict[str, list[float]] = {name: [] for name in sources}
    for _ in range(5):
        for name, source in sources.items():
            began = time.process_time()
            images = sum(len(batch["rgb"]) for batch in itertools.islice(source, batches))
            rates[name].append(images / (time.process_time() - began))
    return {name: {"first": seconds[name], "a_second": statistics.median(rates[name])} for name in sources}


def enlarge(photos: Sequence[Path], folder: Path) -> None:
    """Photographs as JPEGs of 12 megapixels."""
    folder.mkdir(parents=True, exist_ok=True)
    for photo in photos:
        Image.open(photo).resize(LARGE, Image.Resampling.BICUBIC).save(folder / f"{photo.stem}.jpg", quality=90)


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


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    parser = cli.parser(__doc__)
    parser.add_argument("--photographs", type=cli.at_least(CLASSES), default=1_300_000)
    parser.add_argument("--folder", type=Path, default=Path("build/loader"))
    parser.add_argument("--images", type=Path, metavar="DIR", help="measure images a second of these photographs")
    parser.add_argument("--workers", type=cli.at_least(0), default=1)
    parser.add_argument("--batches", type=cli.at_least(1), default=100)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    photos, cache = options.folder / "photographs", options.folder / "cache"
    if options.images:
        os.environ["XDG_CACHE_HOME"] = str(cache)
        shutil.rmtree(cache, ignore_errors=True)
        large = options.folder / "large"
        enlarge(list_folder(options.images)[:24], large)
        rates = {str(folder): images_a_second(folder, options.batches) for folder in (options.images, large)}
        print(json.dumps({"machine": machine.describe(torch.device("cpu")), "images": rates}))
        return 0
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
