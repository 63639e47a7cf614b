# SPDX-License-Identifier: Apache-2.0
"""What share of the machine's product rate a step of training reaches.

    python bench/train_step.py --config medium_colorizer --batch 4 --precision bfloat16 --threads 1

The products of a step are counted (bench/counting.py) and divided by its time; the rate is that of torch's large
product in the same precision, before and after, at its best. Both are taken by the clock and, on a CPU, by processor
time, which is the one to look at on a machine that others use too. Ends with a JSON line.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout, in place of bench/

from bench import counting, machine, record
from bench.setting import random_images
from bench.timing import synchronize
from coltran import cli
from coltran.devices.choose import PRECISIONS
from coltran.training.data import Batch
from coltran.training.memory import keep_memory
from coltran.training.step import Training, start, take_step


def random_batch(training: Training, images: int) -> Batch:
    """Images of noise, as a network of this kind is trained on them."""
    model = training.saved_config["model"]
    rgb = random_images(images, model, torch.device("cpu"))
    batch = {"rgb": rgb}
    if model["name"] != "coltran_core":
        batch["channel_index"] = torch.zeros(images, dtype=torch.int64)
    if model["name"] == "spatial_upsampler":
        batch["low_res"] = rgb
    return batch


def timed(call: Callable[[], object], device: torch.device, times: int) -> list[tuple[float, float]]:
    """Seconds of so many calls, by the clock and by processor time, after three that do not count."""
    found = []
    for _ in range(3 + times):
        synchronize(device)
        before = time.perf_counter(), time.process_time()
        call()
        synchronize(device)
        found.append((time.perf_counter() - before[0], time.process_time() - before[1]))
    return found[3:]


def measure(name: str, images: int, precision: str, steps: int, device: torch.device, compiled: bool) -> dict[str, Any]:
    """The figures of one configuration of `coltran.configs`."""
    config = importlib.import_module(f"coltran.configs.{name}").get_config()
    config.batch_size = images
    training = start(config, 0, device, precision, compiled=compiled)
    batch = random_batch(training, images)
    multiply, of_product = machine.large_product(device, getattr(torch, precision))
    products = timed(multiply, device, 20)
    of_steps = timed(lambda: take_step(training, batch), device, steps)
    products += timed(multiply, device, 20)
    assert all(bool(loss.isfinite()) for loss in take_step(training, batch).values())
    operations = counting.flops(images * counting.training_step(training.saved_config["model"]))
    found = {
        "config": name,
        "weights": sum(p.numel() for p in training.network.parameters()),
        "batch": images,
        "precision": precision,
        "gflop": operations / 1e9,
    }
    for i, kind in enumerate(("clock", "processor") if device.type == "cpu" else ("clock",)):
        seconds, rate = statistics.median(step[i] for step in of_steps), of_product / min(p[i] for p in products)
        found |= {f"{kind} seconds": seconds, f"gflop/s of the large product by {kind}": rate / 1e9}
        found[f"share by {kind}"] = operations / seconds / rate
    return found


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    parser = cli.parser(__doc__)
    parser.add_argument("--config", default="medium_colorizer", help="of coltran/configs (default: %(default)s)")
    parser.add_argument("--batch", type=cli.at_least(1), default=4, help="images (default: 4)")
    parser.add_argument("--precision", choices=PRECISIONS, nargs="+", default=list(PRECISIONS))
    parser.add_argument("--threads", type=cli.at_least(1), help="threads that compute (default: torch's choice)")
    parser.add_argument("--steps", type=cli.at_least(1), default=5, help="timed, after three (default: 5)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="by torch.compile, which takes up to minutes at first")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_memory()
    device, sizes = cli.device(options.device), (options.config, options.batch)
    rows = [measure(*sizes, each, options.steps, device, options.compile) for each in options.precision]
    columns = list(zip(rows[0], *(row.values() for row in rows), strict=True))  # few configurations, so downwards
    title = f"A step of training, {torch.get_num_threads()} threads"
    record.console().print(record.table(title, ["", *options.precision], columns))
    print(json.dumps({"machine": machine.describe(device), "steps": rows}))
    return 0


if __name__ == "__main__":
    cli.run(main)
