# SPDX-License-Identifier: Apache-2.0
"""How fast the three networks colour, beside the original program's way of sampling and the machine's own limits.

    python bench/sample_speed.py                          some minutes on a laptop, the paper's size
    python bench/sample_speed.py --batch 1 8 --precision bfloat16
    python bench/sample_speed.py --device cuda --rows 0
    python bench/sample_speed.py --original google-research    beside the original program itself

Both ways of sampling use the same networks with random weights, and before anything is timed they are checked to draw
the same image. They run in turn, in one process. The original's algorithm takes minutes an image, so by default its
first row is timed and scaled, a row's cost being constant; what is scaled is labelled as extrapolated. The share of the
limit is the counted work (bench/counting.py) at the rate that torch's own large matrix product reaches in the same run,
over the time taken. Ctrl-C ends the measuring; what was measured is shown and written.

--original takes a checkout of the original program (the folder that holds its `coltran`), which runs with a Python that
has TensorFlow. It draws one image with each network, 5 to 10 minutes at the paper's size, then ours draws it; the two
are compared pixel by pixel. Of the other options, --config, --stages, --threads, --repeats and --results count.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout, in place of bench/

from bench import check, counting, machine, original, recomputing, record, setting, timing
from coltran import cli
from coltran.devices.choose import PRECISIONS, require_bfloat16
from coltran.networks.colorizer import Colorizer

Timings = dict[tuple[str, str, int], list[timing.Timing]]  # by network, implementation and batch


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("--config", type=Path, default=setting.PAPER, help="of the colorizer; those of the others lie beside it")
    add("--batch", type=cli.at_least(1), nargs="+", default=[1, 8], help="batch sizes (default: 1 8)")
    add(
        "--stages",
        nargs="+",
        choices=setting.STAGES,
        default=list(setting.STAGES),
        help="networks to time (default: all)",
    )
    add("--precision", choices=PRECISIONS, default="float32", help="of our products (default: float32)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--threads", type=cli.at_least(1), help="threads that compute (default: torch's choice)")
    add("--rows", type=cli.at_least(0), default=1, help="of the original's way to time (default: 1); 0 leaves it out")
    add("--repeats", type=cli.at_least(1), default=3, help="timed rounds, after one that warms up (default: 3)")
    add("--results", type=Path, default=record.RESULTS, help="where the JSON line goes (default: bench/results)")
    add("--original", type=Path, metavar="DIR", help="compare with the original program in this folder")
    add(
        "--tensorflow", type=Path, default=original.TENSORFLOW, metavar="PYTHON",
        help="interpreter that runs it, with TensorFlow (default: that of `make tf-test`)",
    )  # fmt: skip
    options = parser.parse_args(argv)
    if options.original and (options.device, options.precision) != ("cpu", "float32"):
        parser.error("--original goes with --device cpu and --precision float32")
    if options.precision == "bfloat16":
        require_bfloat16(torch.device(options.device))
    return options


class Measuring:
    """The measuring in progress, so that an interruption leaves what there is."""

    def __init__(self, options: argparse.Namespace) -> None:
        if options.threads:
            torch.set_num_threads(options.threads)
        self.options, self.console, self.device = options, record.console(), cli.device(options.device)
        if self.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = False  # both sides, and the limit, in the precision asked for
        self.models = setting.load_models(options.config, options.stages)
        self.timings: Timings = {}
        self.checks: dict[str, Any] = {}
        self.rows, self.step_bytes = (0, 0), 0  # of the original's way, timed and all; of the weights read for a pixel
        if "colorizer" in self.models:
            height = self.models["colorizer"]["resolution"][0]
            self.rows = (min(options.rows, height), height)
            width = getattr(torch, options.precision).itemsize
            self.step_bytes = counting.step_weights(self.models["colorizer"]) * width
        self.machine = machine.describe(self.device)
        precisions = dict.fromkeys(("float32", options.precision))
        self.measure_limits = partial(machine.measure_limits, self.device, precisions, self.step_bytes)
        self.limits = self.measure_limits()

    def run(self) -> None:
        """Checks, then times, one network after another."""
        for stage, model in self.models.items():
            network, batches = setting.build(model, self.device), [1]  # an upsampler takes one image at a time
            if isinstance(network, Colorizer):
                batches = list(dict.fromkeys(self.options.batch))
                self.checks = check.check(network, self.rows[0])
                self.console.print(f"{record.OURS}: draws the image of {record.RECOMPUTING}")
            for batch in batches:
                self.time(stage, batch, self.sides(network, setting.random_images(batch, model, self.device)))

    def sides(self, network: nn.Module, images: Tensor) -> dict[str, timing.Run]:
        """What to time in turn."""
        sides: dict[str, timing.Run] = {}
        if isinstance(network, Colorizer) and self.rows[0]:
            theirs = partial(recomputing.sample, network, images[..., 0], rows=self.rows[0])
            sides[record.RECOMPUTING] = lambda clock: theirs(finished=clock)
        sides[record.OURS] = lambda clock: setting.run(network, images, self.options.precision, clock)
        return sides

    def time(self, stage: str, batch: int, sides: dict[str, timing.Run]) -> None:
        """All sides in turn, with the limits after each."""
        for name, run in timing.alternate(sides, self.device, self.options.repeats):
            # The machine is not the same from minute to minute: what counts is the best that it did in all of them.
            self.limits = machine.best(self.limits, self.measure_limits())
            if name == record.RECOMPUTING:
                run = timing.extrapolate(run, *self.rows)
            self.timings.setdefault((stage, name, batch), []).append(run)
            self.console.print(f"{stage}, batch {batch}, {name}: {run.seconds / batch:.3g} s an image")

    def measurements(self) -> Iterator[dict[str, Any]]:
        """What there is, beside the counted work."""
        for (stage, name, batch), timings in self.timings.items():
            model, slow, read = self.models[stage], name == record.RECOMPUTING, {}
            if stage != "colorizer":
                macs = {"upsampler": counting.upsampler(model)}
            elif slow:
                macs = counting.recomputing(model)
            else:
                macs = counting.incremental(model)
                read = {"row decoding": model["resolution"][0] * model["resolution"][1] * self.step_bytes}
            work = {part: counting.flops(count) for part, count in macs.items()}
            rows = self.rows if slow and self.rows[0] < self.rows[1] else None
            dtype = "float32" if slow else self.options.precision
            yield record.measurement(stage, name, batch, timings, work, self.limits, dtype, read=read, rows=rows)

    def result(self, interrupted: bool) -> dict[str, Any]:
        """The record of what there is."""
        found = list(self.measurements())
        record.add_ratios(found)
        return {
            "benchmark": "sample_speed",
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "interrupted": interrupted,
            "machine": self.machine,
            "limits": self.limits._asdict(),
            "options": {name: record.told(value) for name, value in vars(self.options).items()},
            "checks": self.checks,
            "measurements": found,
        }


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code: 0, or 130 after Ctrl-C."""
    options = parse(argv)
    if options.original:
        return original.main(options)
    measuring, interrupted = Measuring(options), False
    try:
        measuring.run()
    except KeyboardInterrupt:
        if not measuring.timings:
            raise
        interrupted = True
        measuring.console.print("Interrupted; this is what was measured.")
    result = measuring.result(interrupted)
    record.finish(result, record.speed_tables(result), options.results)
    return 130 if interrupted else 0


if __name__ == "__main__":
    cli.run(main)
