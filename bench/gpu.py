# SPDX-License-Identifier: Apache-2.0
"""What an image asks of a GPU: counted anywhere, compiled anywhere, measured where there is one.

    python bench/gpu.py               kernels, graph replays, operations and waits of an image, by stage; on a GPU also
                                      everything measured, within 8 minutes
    python bench/gpu.py --launches    the counts alone
    python bench/gpu.py --ahead       each kernel compiled for four GPUs that need not be there (some minutes)

With --json the last line is one object. All is said of the paper's networks.

To count, the sampler runs on tensors that say they are on a GPU (bench/emulate.py). The host's time is that of a
network 8 wide with as many layers, whose kernels are not launched: Triton's own work for a launch is not in it.

--ahead reads registers, spills, shared memory and instructions from the machine code. A kernel's time is an estimate:
its bytes at the card's bandwidth, or its products at half of its dense bfloat16 rate. Bytes count every large tensor
once: what several programs of a line read again is in the second-level cache.

On a GPU its tests come first. Then small kernels in a graph, each graph of the colorizer beside the estimate, whole
images (random weights: a row takes up to 64 passes), the upsamplers and training steps, with the time that the host
takes to issue them. A kernel's time is the median of repeated launches with the second-level cache emptied before each,
beside torch's attention and FlexAttention. A part that fails is a line in the record, and the others go on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout, in place of bench/

from bench import record
from bench.ahead import TARGETS
from bench.gpu_measured import measure
from bench.gpu_work import ASSUMED, ahead, launch_counts
from coltran import cli


def show(title: str, rows: list[dict[str, Any]], note: str = "") -> None:
    """Rows as a table; a column that only some have is empty in the others."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[row.get(name) for name in columns] for row in rows]
    record.console().print(record.table(title, columns, cells, note))


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    parser = cli.parser(__doc__)
    parser.add_argument("--batch", type=cli.at_least(1), nargs="+", help="default: 1 20; measured: 1 8 20 64")
    parser.add_argument("--launches", action="store_true", help="count what an image issues")
    parser.add_argument("--ahead", action="store_true", help="compile the kernels for four GPUs")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args(argv)
    found: dict[str, Any] = {}
    if options.ahead:
        found["ahead"] = {target: ahead(target) for target in TARGETS}
        for target, rows in found["ahead"].items():
            show(f"Compiled for {target}", rows, ASSUMED)
    if options.launches or not options.ahead:
        found |= launch_counts(options.batch or [1, 20])
        show("Issued for a batch", found["stages"])
        show(
            "Estimated, bfloat16, H200", found["estimates"], "By count, out of what the record says under assumptions."
        )
        print(f"An image in bfloat16 at batch 1: {found['image']}")
    if torch.cuda.is_available() and not (options.launches or options.ahead):
        found |= measure(torch.device("cuda"), options.batch or [1, 8, 20, 64])
        for name in ("correctness", "floors", "graphs", "networks", "kernels", "training"):
            show(name.capitalize(), found[name])
    if options.json:
        print(json.dumps(found))
    return 0


if __name__ == "__main__":
    cli.run(main)
