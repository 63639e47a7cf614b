# SPDX-License-Identifier: Apache-2.0
"""Where the time of an image goes, by kind of operation: what is left beside the matrix products?

    python bench/parts.py
    python bench/parts.py --batch 1 8 --precision bfloat16

Draws images with random weights under torch's profiler, the native kernels' calls marked, on the CPU. The seconds are
those of the operations themselves without what they call; the last line is what none of them accounts for, which is
Python and the profiler. Prints a table and one JSON line; nothing else should run meanwhile.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile, record_function

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout, in place of bench/

from bench import machine, setting, tables
from coltran import cli
from coltran.devices.choose import PRECISIONS
from coltran_kernels.cpu import native

# Kinds, each with the operations that belong to it; the native kernels by the names of their calls.
KINDS = {
    "products": ("mkldnn::_linear_pointwise", "aten::addmm", "aten::mm", "aten::bmm"),
    "row decoding": ("coltran_decode_row", "coltran_settle_row"),
    "attention": ("coltran_axial", "coltran_attend_columns"),
    "layer norm": ("aten::native_layer_norm",),
    "copies": ("aten::copy_", "aten::cat", "aten::stack", "aten::fill_"),
    "gathers": ("aten::index_select", "aten::embedding", "aten::gather"),
    "sums, scales and shifts": (
        "aten::add", "aten::add_", "aten::addcmul", "aten::mul", "aten::mul_", "aten::sum", "aten::div_", "aten::relu_",
        "aten::clamp_min_",
    ),
}  # fmt: skip
MARKED = [name for names in KINDS.values() for name in names if name.startswith("coltran_")]


class Marked:
    """The native library, whose kernels show in a profile."""

    def __init__(self, library: Any) -> None:
        self.library = library

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.library, name)
        if name not in MARKED:
            return call

        def marked(*arguments: Any) -> Any:
            with record_function(name):
                return call(*arguments)

        return marked


def seconds(network: torch.nn.Module, gray: torch.Tensor, precision: str) -> dict[str, float]:
    """Seconds by kind, of one batch [B, H, W] after one that warms up; "all" by the clock."""
    library = Marked(native.load())
    setting.draw(setting.DEFAULT, network, gray, seed=0, precision=precision)
    with mock.patch.object(native, "load", lambda: library), profile(activities=[ProfilerActivity.CPU]) as profiled:
        start = time.perf_counter()
        setting.draw(setting.DEFAULT, network, gray, seed=0, precision=precision)
        taken = time.perf_counter() - start
    kinds = {name: kind for kind, names in KINDS.items() for name in names}
    found: Counter[str] = Counter(dict.fromkeys(KINDS, 0.0))
    for event in profiled.key_averages():
        found[kinds.get(event.key, "other operations")] += event.self_cpu_time_total / 1e6
    return {**found, "no operation": taken - sum(found.values()), "all": taken}


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    parser = cli.parser(__doc__)
    parser.add_argument("--threads", type=cli.at_least(1), help="threads that compute (default: torch's choice)")
    parser.add_argument("--config", type=Path, default=setting.PAPER, help="configuration of the colorizer")
    parser.add_argument("--batch", type=cli.at_least(1), nargs="+", default=[1, 8], help="batch sizes (default: 1 8)")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of the products")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cpu")
    model = setting.load_models(options.config, ["colorizer"])["colorizer"]
    network = setting.build(model, device)
    found = {
        batch: seconds(network, setting.random_images(batch, model, device)[..., 0], options.precision)
        for batch in options.batch
    }
    rows = [
        (kind, *(tables.number(of[kind] / batch) for batch, of in found.items())) for kind in next(iter(found.values()))
    ]
    heads = ("seconds an image", *(f"batch {batch}" for batch in found))
    tables.console().print(tables.to_rich(tables.Table(f"By kind of operation, {options.precision}", heads, rows)))
    print(json.dumps({"machine": machine.describe(device), "precision": options.precision, "seconds": found}))
    return 0


if __name__ == "__main__":
    cli.run(main)
