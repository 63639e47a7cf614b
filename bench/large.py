# SPDX-License-Identifier: Apache-2.0
"""What a large photograph costs beyond the networks: seconds, and memory at its peak.

    python bench/large.py --megapixels 12

The photograph is smooth noise in a JPEG. It is read, looked at (the small gray image for the networks), recoloured and
written. The memory is that of all of it with the networks in the package, which are small, up to their coarse stage.
Prints one line for each part and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

import coltran
from coltran.photo import files
from coltran.photo.recolour import luminance, recolour


def photograph(megapixels: float) -> np.ndarray:
    """Smooth noise in the shape of a photograph, 3 : 2: uint8 [H, W, 3]."""
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    small = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return cv2.resize(small, (round(1.5 * height), height), interpolation=cv2.INTER_CUBIC)


def seconds(function: Callable[[], object], rounds: int) -> dict[str, float]:
    """The medians of some rounds, by the clock and of the processor's time in all threads."""
    clock, processor = [], []
    for _ in range(rounds):
        begin, began = time.perf_counter(), time.process_time()
        function()
        clock.append(time.perf_counter() - begin)
        processor.append(time.process_time() - began)
    return {"clock": statistics.median(clock), "processor": statistics.median(processor)}


def resident(most: bool = False) -> float:
    """Memory of this process in megabytes, now or at its peak since `forget_peak` (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:" if most else "VmRSS:")) / 1000


def forget_peak() -> None:
    """Lets the peak be what the process has now."""
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, default=12, help="of the photograph (12)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts (3)")
    options = parser.parse_args()
    Image.MAX_IMAGE_PIXELS = None  # ours is safe; not on import, where whoever measures would lose the guard
    pipeline = coltran.from_pretrained()
    with tempfile.TemporaryDirectory() as folder:
        path, result = Path(folder, "large.jpg"), Path(folder, "result.jpg")
        large = photograph(options.megapixels)
        Image.fromarray(large).save(path, quality=90)
        del large
        forget_peak()
        before = resident()
        photo = files.read(path)
        coloured = pipeline(photo.pixels, stage="coarse").images[0]
        files.write(coloured, result, format="jpeg", quality=95, exif=photo.exif)
        memory = resident(most=True) - before
        drawn = cv2.resize(coloured, (256, 256), interpolation=cv2.INTER_AREA)  # as large as the networks' last stage
        found = {
            "read": seconds(lambda: files.read(path), options.rounds),
            "look": seconds(lambda: pipeline.look(photo.pixels), options.rounds),
            "recolour": seconds(lambda: recolour(luminance(photo.pixels), drawn), options.rounds),
            "write": seconds(lambda: files.write(coloured, result, format="jpeg", quality=95), options.rounds),
        }
    found["all"] = {kind: sum(part[kind] for part in found.values()) for kind in ("clock", "processor")}
    for name, taken in found.items():
        print(f"{name:8} {taken['clock']:6.2f} s, {taken['processor']:5.2f} s of the processor")
    print(f"{'memory':8} {memory:6.0f} MB")
    print(json.dumps({"megapixels": options.megapixels, "memory_mb": memory, "seconds": found}))


if __name__ == "__main__":
    main()
