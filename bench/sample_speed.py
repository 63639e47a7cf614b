# SPDX-License-Identifier: Apache-2.0
"""How fast the three networks colour, beside the original program's way of sampling and the machine's own limits.

    python bench/sample_speed.py                          some minutes on a laptop, the paper's size
    python bench/sample_speed.py --batch 1 4 20 --plot
    python bench/sample_speed.py --config coltran/test_configs/colorizer.py --full --implementation all
    python bench/sample_speed.py --fixed-point --photos ../shared/photos/valid --batch 1 4
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
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import nn

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout, in place of bench/

from bench import check, counting, machine, original, plots, record, setting, tables, timing
from coltran import checkpoint, cli
from coltran.devices.choose import require_bfloat16
from coltran.networks.colorizer import Colorizer
from coltran.pipeline import PRETRAINED
from coltran.sampling import Sample

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
STAGES = ("colorizer", "color_upsampler", "spatial_upsampler")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = setting.parser(__doc__)
    parser.add_argument(
        "--config", type=Path, default=setting.PAPER, help="configuration of the colorizer; the others' lie beside it"
    )
    parser.add_argument("--batch", type=cli.at_least(1), nargs="+", default=[1, 8], help="batch sizes (default: 1 8)")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="of the networks")
    parser.add_argument(
        "--precision", choices=list(DTYPES), default="float32",
        help="of our products with float32 networks, on a CPU; the original's way and the checks stay in float32",
    )  # fmt: skip
    parser.add_argument(
        "--rows",
        type=cli.at_least(0),
        default=1,
        help="rows of the original's algorithm to time (default: 1); 0 leaves it out",
    )
    parser.add_argument("--fixed-point", action="store_true", help="also draw the rows by fixed point")
    parser.add_argument(
        "--photos", type=Path,
        help="colour the photographs of this folder with the networks in the package, in place of noise with random "
        "networks, which guess no row right",
    )  # fmt: skip
    parser.add_argument("--full", action="store_true", help="time the original's algorithm on all rows")
    parser.add_argument("--original", type=Path, metavar="DIR", help="compare with the original program in this folder")
    parser.add_argument(
        "--tensorflow", type=Path, default=original.TENSORFLOW, metavar="PYTHON",
        help="interpreter that runs it, with TensorFlow (default: that of `make tf-test`)",
    )  # fmt: skip
    options = parser.parse_args(argv)
    if options.original and (options.plot or options.device != "cpu" or options.implementation != [setting.DEFAULT]):
        parser.error("--original goes with --device cpu, without --implementation and --plot")
    if options.precision == "bfloat16":
        if options.dtype != "float32" or options.device not in ("cpu", "cuda"):
            parser.error("--precision bfloat16 takes float32 networks on a CPU or a GPU")
        require_bfloat16(torch.device(options.device))
    return options


class Measuring:
    """The measuring in progress, so that an interruption leaves what there is."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.console, self.device = options, tables.console(), setting.prepare(options)
        if self.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = False  # both sides, and the limit, in the dtype asked for
        self.dtype = DTYPES[options.dtype]
        self.models = setting.load_models(options.config, options.stages)
        self.trained: dict[str, Any] = {}  # networks
        if options.photos:
            found = {stage: checkpoint.load(PRETRAINED / stage).eval() for stage in options.stages}
            self.trained = {stage: network.to(self.device, self.dtype) for stage, network in found.items()}
            self.models = {stage: network.config for stage, network in self.trained.items()}
        self.settled: dict[int, Sample] = {}  # by fixed point, by batch
        self.timings: dict[tuple[str, str, int], list[timing.Timing]] = {}  # by network, implementation, batch
        self.checks: dict[str, Any] = {}
        self.answers: dict[str, str | None] = {}
        self.rows, self.step_bytes = (0, 0), 0  # of the original's way, timed and all; of the weights read for a pixel
        if "colorizer" in self.models:
            height = self.models["colorizer"]["resolution"][0]
            self.rows = (height if options.full else min(options.rows, height), height)
            width = DTYPES[self._precision(setting.DEFAULT)].itemsize
            self.step_bytes = counting.step_weights(self.models["colorizer"]) * width
        self.machine = machine.describe(self.device)
        self.limits = machine.measure_limits(self.device, self.step_bytes)

    def _precision(self, name: str) -> str:
        """That of a side's products."""
        narrow = self.options.precision == "bfloat16" and name != record.RECOMPUTING
        return "bfloat16" if narrow else self.options.dtype

    def run(self) -> None:
        """Checks, then times, one network after another."""
        for stage, model in self.models.items():
            network = self.trained.get(stage) or setting.build(model, self.device, self.dtype)
            answers = setting.ask_network(model, self.device, self.dtype)
            implementations = setting.pick(answers, self.options.implementation)
            if isinstance(network, Colorizer):
                implementations += [record.FIXED_POINT] * self.options.fixed_point
                self.answers = answers
                for name, reason in answers.items():
                    self.console.print(f"can run here: {name}" if reason is None else f"not here: {name} ({reason})")
                for name in implementations:
                    self.check(name, network)
            # An upsampler takes one image at a time, as the pipeline gives them.
            for batch in dict.fromkeys(self.options.batch) if isinstance(network, Colorizer) else (1,):
                self.time(stage, network, batch, implementations)

    def check(self, name: str, network: Colorizer) -> None:
        """Whole small images, and the rows that are timed."""
        rows, gray = self.rows[0], setting.random_images(1, network.config, self.device)[..., 0]
        whole = check.check_whole(network.config, name, self.device, self.dtype)
        self.checks[name] = {"small images": whole._asdict()}
        if not rows:
            return
        part = check.check_rows(network, gray, name, rows=rows, norm="exact", dtype=self.dtype)
        self.checks[name][f"first {rows} rows"] = part._asdict()
        self.console.print(f"{name}: draws the image of {record.RECOMPUTING}")

    def time(self, stage: str, network: nn.Module, batch: int, implementations: list[str]) -> None:
        """All sides in turn, with the limits after each."""
        images = setting.random_images(batch, self.models[stage], self.device)
        if self.options.photos and stage == "colorizer":
            images = setting.gray_photos(self.options.photos, batch)[..., None].to(self.device)
        sides = setting.sides(network, stage, images, implementations, self.rows[0], self.options.precision)
        if record.FIXED_POINT in implementations:
            self.settled[batch] = setting.draw(
                record.FIXED_POINT, network, images[..., 0], seed=0, precision=self.options.precision
            )
        for name, run in timing.alternate(sides, self.device, self.options.repeats):
            # The machine is not the same from minute to minute: what counts is the best that it did in all of them.
            self.limits = machine.best(self.limits, machine.measure_limits(self.device, self.step_bytes))
            if name == record.RECOMPUTING:
                run = timing.extrapolate(run, *self.rows)
            self.timings.setdefault((stage, name, batch), []).append(run)
            self.console.print(f"{stage}, batch {batch}, {name}: {run.seconds / batch:.3g} s an image")

    def result(self, interrupted: bool) -> dict[str, Any]:
        """The record of what there is."""
        found = []
        for (stage, name, batch), timings in self.timings.items():
            model, slow, read = self.models[stage], name == record.RECOMPUTING, {}
            if stage != "colorizer":
                macs = {stage: counting.upsampler(model)}
            elif slow:
                macs = counting.recomputing(model)
            else:
                macs = counting.incremental(model)
                read = {"row decoding": model["resolution"][0] * model["resolution"][1] * self.step_bytes}
            work = {part: counting.flops(count) for part, count in macs.items()}
            rows = self.rows if slow and self.rows[0] < self.rows[1] else None
            dtype = self._precision(name)
            found.append(
                record.measurement(stage, name, batch, timings, work, self.limits, dtype, read=read, rows=rows)
            )
        record.add_ratios(found)
        record.add_passes(found, self.settled)
        options = {name: record.told(value) for name, value in vars(self.options).items()}
        return {
            "benchmark": "sample_speed",
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "interrupted": interrupted,
            "machine": self.machine,
            "limits": self.limits._asdict(),
            "options": options,
            "implementations": self.answers,
            "checks": self.checks,
            "measurements": found,
        }


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code: 0, or 130 after Ctrl-C."""
    options = parse(argv)
    if options.original:
        return original.main(options)
    measuring = Measuring(options)
    console, interrupted = measuring.console, False
    try:
        measuring.run()
    except KeyboardInterrupt:
        if not measuring.timings:
            raise
        interrupted = True
        console.print("Interrupted; this is what was measured.")
    result = measuring.result(interrupted)
    kinds = (tables.machine, tables.results, tables.stages, tables.reading, tables.fixed_point)
    shown = [table(result) for table in kinds]
    return setting.finish(result, shown, options, console, plots.sample_speed)


if __name__ == "__main__":
    cli.run(main)
