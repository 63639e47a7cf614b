# SPDX-License-Identifier: Apache-2.0
"""How much slower the sampler is while other programs are at work on its processors.

    python bench/neighbours.py
    python bench/neighbours.py --batch 1 8 --neighbours 2 --config coltran/configs/small_colorizer.py

Times images of random weights alone and beside programs that do nothing but compute, in turn, and with every thread at
work throughout as well, which is what `coltran.sampling.threads` spares. Adds a line to the results.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from unittest import mock

import torch

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout, in place of bench/

from bench import machine, record, setting, tables
from coltran import cli
from coltran.sampling.threads import Threads


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """So many programs that compute, while inside."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.5)  # until they have started
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    parser = cli.parser(__doc__)
    parser.add_argument("--config", type=Path, default=setting.PAPER, help="configuration of the colorizer")
    parser.add_argument("--batch", type=cli.at_least(1), nargs="+", default=[1], help="batch sizes (default: 1)")
    parser.add_argument("--neighbours", type=cli.at_least(1), default=2, help="other programs (default: 2)")
    parser.add_argument("--threads", type=cli.at_least(1), help="threads that compute (default: torch's choice)")
    parser.add_argument("--repeats", type=cli.at_least(1), default=3, help="timed rounds (default: 3)")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="where the JSON line goes")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    device, console = torch.device("cpu"), tables.console()
    model = setting.load_models(options.config, ["colorizer"])["colorizer"]
    network = setting.build(model, device)
    described, found, rows = machine.describe(device), [], []
    for batch in options.batch:
        gray = setting.random_images(batch, model, device)[..., 0]

        def run(gray: torch.Tensor = gray) -> float:
            start = time.perf_counter()
            setting.draw(setting.DEFAULT, network, gray, seed=0)
            return time.perf_counter() - start

        run()  # not counted
        seconds: dict[str, list[float]] = {"alone": [], "beside others": [], "beside others, all threads": []}
        for _ in range(options.repeats):
            seconds["alone"].append(run())
            with busy(options.neighbours):
                seconds["beside others"].append(run())
                with mock.patch.object(Threads, "look", lambda self: None):
                    seconds["beside others, all threads"].append(run())
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        found.append({"batch": batch, "neighbours": options.neighbours, "seconds": seconds})
        for name, median in medians.items():
            times = tables.number(median / medians["alone"])
            rows.append((str(batch), name, tables.number(median), f"{times} x"))
    title = f"Beside {options.neighbours} programs on {described['cores']} cores"
    console.print(tables.to_rich(tables.Table(title, ("batch", "", "seconds", "of alone"), rows)))
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    result = {"benchmark": "neighbours", "time": now, "machine": described, "measurements": found}
    record.append(result, options.results / "neighbours.jsonl")
    console.print(f"one line added to {options.results / 'neighbours.jsonl'}")
    return 0


if __name__ == "__main__":
    cli.run(main)
