# SPDX-License-Identifier: Apache-2.0
"""How fast the three networks colour, beside the original program's way of sampling and the machine's own limits.

    python bench/sample_speed.py                          some minutes on a laptop, the paper's size
    python bench/sample_speed.py --batch 1 4 20 --plot
    python bench/sample_speed.py --config coltran/test_configs/colorizer.py --full --implementation all

Both ways of sampling use the same networks with random weights, and before anything is timed they are checked to draw
the same image. They run in turn, in one process. The original's algorithm takes minutes an image, so by default its
first row is timed and scaled, a row's cost being constant; what is scaled is labelled as extrapolated. The share of the
limit is the counted work (bench/counting.py) at the rate that torch's own large matrix product reaches in the same run,
over the time taken. Ctrl-C ends the measuring; what was measured is shown and written.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout, in place of bench/

from bench import check, counting, machine, plots, record, reference, setting, tables, timing
from coltran import cli
from coltran.cli import at_least
from coltran.networks.colorizer import Colorizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PAPER = Path(__file__).resolve().parent.parent / "coltran" / "configs" / "colorizer.py"
Key = tuple[str, str, int]  # network, implementation, batch


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", type=Path, default=PAPER, help="configuration of the colorizer; the others' lie beside it"
    )
    parser.add_argument("--batch", type=at_least(1), nargs="+", default=[1, 8], help="batch sizes (default: 1 8)")
    parser.add_argument(
        "--implementation", nargs="+", default=[setting.DEFAULT],
        help="of the kernels; 'default' is what is used where none is named, 'all' are those that can run here; "
        "'xla' runs on torch_xla's device, with PJRT_DEVICE=CPU only a check of its overhead a step",
    )  # fmt: skip
    parser.add_argument("--stages", nargs="+", choices=setting.STAGES, default=list(setting.STAGES))
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=at_least(1), help="threads that compute (default: torch's choice)")
    parser.add_argument(
        "--rows", type=at_least(1), default=1, help="rows of the original's algorithm to time (default: 1)"
    )
    parser.add_argument("--full", action="store_true", help="time the original's algorithm on all rows")
    parser.add_argument("--compile", action="store_true", help="torch.compile whatever runs as a module, on both sides")
    parser.add_argument(
        "--repeats", type=at_least(1), default=3, help="timed rounds, after one that warms up (default: 3)"
    )
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="where the JSON line and the plot go")
    parser.add_argument("--plot", action="store_true", help="also draw sample_speed.png (needs matplotlib)")
    return parser.parse_args(argv)


def colorizer_sides(network: Colorizer, batch: int, implementations: list[str], rows: int) -> dict[str, timing.Run]:
    """What to time in turn: the original's algorithm over its first rows, and the sampler with each implementation."""
    gray = setting.random_gray(batch, network.config, network.logits.weight.device)

    def run_reference(clock: timing.StageClock) -> object:
        return reference.sample(network, gray, rows=rows, finished=clock)

    def sampler(name: str) -> timing.Run:
        return lambda clock: setting.draw(name, network, gray, seed=0, finished=clock)

    return {record.RECOMPUTING: run_reference} | {name: sampler(name) for name in implementations}


def upsampler_sides(stage: str, network: nn.Module, implementations: list[str]) -> dict[str, timing.Run]:
    """What to time in turn: an upsampler on one image, as the pipeline gives it, with each implementation."""
    weight = next(network.parameters())
    model: Any = network.config
    gray = setting.random_gray(1, model, weight.device)
    colors = setting.random_colors(1, model, weight.device)

    def side(name: str) -> timing.Run:
        def run(clock: timing.StageClock) -> None:
            setting.upsample(network, colors, gray, name)
            clock(stage)

        return run

    return {name: side(name) for name in implementations}


class Measuring:
    """The measuring in progress, so that an interruption leaves what there is."""

    def __init__(self, options: argparse.Namespace, console: Console) -> None:
        self.options, self.console = options, console
        self.device = cli.device(options.device)
        if self.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = False  # both sides, and the limit, in the dtype asked for
        self.dtype = DTYPES[options.dtype]
        self.models = setting.load_models(options.config, list(dict.fromkeys(options.stages)))
        self.timings: dict[Key, list[timing.Timing]] = {}
        self.checks: dict[str, Any] = {}
        self.answers: dict[str, str | None] = {}
        self.rows: tuple[int, int] | None = None
        self.step_bytes = 0
        if "colorizer" in self.models:
            height = self.models["colorizer"]["resolution"][0]
            timed = height if options.full else min(options.rows, height)
            self.rows = (timed, height)
            self.step_bytes = counting.step_weights(self.models["colorizer"]) * self.dtype.itemsize
        self.machine = machine.describe(self.device)
        self.limits = machine.measure_limits(self.device, self.step_bytes)

    def run(self) -> None:
        """Checks, then times, one network after another."""
        for stage, model in self.models.items():
            network = setting.build(model, self.device, self.dtype)
            if isinstance(network, Colorizer):
                self.run_colorizer(model, network)
            else:
                self.run_upsampler(stage, model, network)

    def run_colorizer(self, model: dict[str, Any], network: Colorizer) -> None:
        assert self.rows is not None
        rows = self.rows[0]
        self.answers = setting.ask_sampling(model, self.device, self.dtype)
        implementations = setting.pick(self.answers, self.options.implementation)
        self.show_answers()
        for name in implementations:
            gray = setting.random_gray(1, model, self.device)
            whole = check.check_whole(model, name, self.device, self.dtype)
            part = check.check_rows(network, gray, name, rows=rows, norm="exact", dtype=self.dtype)
            self.checks[name] = {"small images": whole._asdict(), f"first {rows} rows": part._asdict()}
            self.console.print(f"{name}: draws the image of {record.RECOMPUTING}")
        if self.options.compile:
            setting.compile_layers(network)
        for batch in dict.fromkeys(self.options.batch):
            self.time("colorizer", batch, colorizer_sides(network, batch, implementations, rows))

    def run_upsampler(self, stage: str, model: dict[str, Any], network: nn.Module) -> None:
        answers = setting.ask_upsampling(model, self.device, self.dtype)
        implementations = setting.pick(answers, self.options.implementation)
        if self.options.compile:
            setting.compile_layers(network)
        self.time(stage, 1, upsampler_sides(stage, network, implementations))

    def time(self, network: str, batch: int, sides: dict[str, timing.Run]) -> None:
        for name, run in timing.alternate(sides, self.device, self.options.repeats):
            # The machine is not the same from minute to minute: what counts is the best that it did in all of them.
            self.limits = machine.best(self.limits, machine.measure_limits(self.device, self.step_bytes))
            if name == record.RECOMPUTING:
                assert self.rows is not None
                run = record.extrapolate(run, *self.rows)
            self.timings.setdefault((network, name, batch), []).append(run)
            self.console.print(
                f"{network}, batch {batch}, {name}: {run.seconds / batch:.3g} s an image", highlight=False
            )

    def show_answers(self) -> None:
        able = [name for name, reason in self.answers.items() if reason is None]
        self.console.print(f"implementations that can run here: {', '.join(able)}")
        for name, reason in self.answers.items():
            if reason is not None:
                self.console.print(f"not here: {name} ({reason})")

    def result(self, interrupted: bool) -> dict[str, Any]:
        """The record of what there is."""
        found = []
        for (network, name, batch), timings in self.timings.items():
            recomputing = name == record.RECOMPUTING
            read: dict[str, float] = {}
            if network != "colorizer":
                work = {network: counting.flops(counting.upsampler(self.models[network]))}
            else:
                count = counting.recomputing if recomputing else counting.incremental
                work = {stage: counting.flops(macs) for stage, macs in count(self.models[network]).items()}
                height, width = self.models[network]["resolution"]
                read = {} if recomputing else {"row decoding": height * width * self.step_bytes}
            rows = self.rows if recomputing and self.rows and self.rows[0] < self.rows[1] else None
            found.append(
                record.measurement(
                    network, name, batch, timings, work, self.limits, self.options.dtype, read=read, rows=rows
                )
            )
        record.add_ratios(found)
        options = {name: str(value) if isinstance(value, Path) else value for name, value in vars(self.options).items()}
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
    console = tables.console()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.plot:
        plots.pyplot()  # that it is missing is better known now than in some minutes
    measuring = Measuring(options, console)
    interrupted = False
    try:
        measuring.run()
    except KeyboardInterrupt:
        if not measuring.timings:
            raise
        interrupted = True
        console.print("Interrupted; this is what was measured.")
    result = measuring.result(interrupted)
    tables.show(result, console)
    path = options.results / "sample_speed.jsonl"
    record.append(result, path)
    console.print(f"one line added to {path}")
    if options.plot and result["measurements"]:
        plots.sample_speed(result, options.results / "sample_speed.png")
        console.print(f"{options.results / 'sample_speed.png'} drawn")
    return 130 if interrupted else 0


if __name__ == "__main__":
    cli.run(main)
