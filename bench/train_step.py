# SPDX-License-Identifier: Apache-2.0
"""What share of the machine's product rate a step of training reaches.

    python bench/train_step.py --config medium_colorizer --batch 4 --precision bfloat16 --threads 1

The products of a step are counted (bench/counting.py) and divided by its time; the rate is that of torch's large
product in the same precision, measured before and after, at its best. Both are taken by the clock and, on a CPU, by
processor time, which is the one to look at on a machine that others use too. Ends with a JSON line.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout, in place of bench/

from bench import counting, machine, tables
from bench.setting import random_images
from bench.timing import synchronize
from coltran import cli
from coltran.devices.choose import PRECISIONS
from coltran.training.data import Batch
from coltran.training.memory import keep_memory
from coltran.training.step import Training, start, take_step


def random_batch(training: Training, images: int) -> Batch:
    """Images of noise, as a network of this kind is trained on them."""
    model = training.config["model"]
    rgb = random_images(images, model, torch.device("cpu"))
    batch = {"rgb": rgb}
    if model["name"] != "coltran_core":
        batch["channel_index"] = torch.zeros(images, dtype=torch.int64)
    if model["name"] == "spatial_upsampler":
        batch["low_res"] = rgb
    return batch


def time_steps(training: Training, batch: Batch, steps: int) -> tuple[float, float]:
    """Median seconds of a step, on the clock and of the processor, after three that do not count."""
    device, clock, processor = training.place.device, [], []
    for _ in range(3 + steps):
        synchronize(device)
        before = time.perf_counter(), time.process_time()
        losses = take_step(training, batch)
        synchronize(device)
        clock.append(time.perf_counter() - before[0])
        processor.append(time.process_time() - before[1])
    assert all(bool(loss.isfinite()) for loss in losses.values())
    return statistics.median(clock[3:]), statistics.median(processor[3:])


def processor_rate(precision: str, seconds: float = 0.5) -> float:
    """Operations of the large product a second of processor time, at its best; all threads together."""
    multiply, operations = machine.large_product(torch.device("cpu"), getattr(torch, precision))
    times: list[float] = []
    while sum(times) < seconds or len(times) < 4:
        before = time.process_time()
        multiply()
        times.append(time.process_time() - before)
    return operations * torch.get_num_threads() / min(times[1:])


def measure(name: str, images: int, precision: str, steps: int, device: torch.device, compiled: bool) -> dict[str, Any]:
    """The figures of one configuration of `coltran.configs`."""
    config = importlib.import_module(f"coltran.configs.{name}").get_config()
    config.batch_size = images
    training = start(config, 0, device, precision, compiled=compiled)
    batch = random_batch(training, images)
    limits, busy = machine.measure_limits(device), processor_rate(precision)
    clock, processor = time_steps(training, batch, steps)
    rate = machine.best(limits, machine.measure_limits(device)).flops[precision]
    busy = max(busy, processor_rate(precision))
    operations = counting.flops(images * counting.training_step(training.config["model"]))
    found = {
        "config": name,
        "weights": sum(p.numel() for p in training.network.parameters()),
        "batch": images,
        "precision": precision,
        "seconds": clock,
        "images_a_second": images / clock,
        "gflop": operations / 1e9,
        "limit_gflop_a_second": rate / 1e9,
        "share": operations / clock / rate,
    }
    if device.type != "cpu":
        return found
    return found | {
        "processor_seconds": processor,
        "limit_gflop_by_processor_time": busy / 1e9,
        "share_by_processor_time": operations * torch.get_num_threads() / processor / busy,
    }


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = cli.parser(__doc__)
    parser.add_argument("--config", default="medium_colorizer", help="of coltran/configs (default: %(default)s)")
    parser.add_argument("--batch", type=cli.at_least(1), default=4, help="images (default: 4)")
    parser.add_argument("--precision", choices=PRECISIONS, nargs="+", default=list(PRECISIONS))
    parser.add_argument("--threads", type=cli.at_least(1), help="threads that compute (default: torch's choice)")
    parser.add_argument("--steps", type=cli.at_least(1), default=5, help="timed, after three (default: 5)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="by torch.compile, which takes up to minutes at first")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    arguments = parse(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    keep_memory()
    device = cli.device(arguments.device)
    sizes = (arguments.config, arguments.batch)
    rows = [measure(*sizes, each, arguments.steps, device, arguments.compile) for each in arguments.precision]
    cells = [[tables.number(x) if isinstance(x, float) else str(x) for x in row.values()] for row in rows]
    columns = list(zip(rows[0], *cells, strict=True))  # one configuration has few figures: downwards
    title = f"A step of training, {torch.get_num_threads()} threads"
    tables.console().print(tables.to_rich(tables.Table(title, ["", *arguments.precision], columns)))
    print(json.dumps({"machine": machine.describe(device), "steps": rows}))
    return 0


if __name__ == "__main__":
    cli.run(main)
