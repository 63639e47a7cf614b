# SPDX-License-Identifier: Apache-2.0
"""What the Triton kernels take on the GPU that is here, beside what bench/gpu.py estimates and what torch offers.

    python bench/gpu_times.py                       attention, norms, then the ways to launch a row, some minutes
    python bench/gpu_times.py --batch 1 20 --dtype bfloat16
    python bench/gpu_times.py --no-kernels --no-rows    the limits of the card alone

A kernel's time is the median of repeated launches with the second-level cache emptied before each. Bytes count as in
bench/gpu.py; their share is of the bandwidth of a large copy, measured here. "torch" is scaled_dot_product_attention
with the relative bias made a matrix before.

A row is that of the paper's inner decoder, random weights, drawn by every plan that fits (who shares it, and whether
the weights stay on chip): pixel by pixel, beside the estimate by which `choose_plan` chooses, and by fixed point. Ends
with one JSON line.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout, in place of bench/

from bench import gpu, machine, setting, tables
from bench.gpu import Launch, Shape
from coltran import cli
from coltran.errors import UserError
from coltran.sampling.decoding import InnerRows, decoder_weights
from coltran_kernels import DecoderWeights, RowTerms
from coltran_kernels.triton import decode_launch, settle_launch
from coltran_kernels.triton.decode_launch import Plan, Sizes

OPTIONS: dict[str, Any] = {
    "given": None, "mode": "sample", "temperature": 1.0, "top_p": 1.0, "eps": 1e-3, "return_probabilities": False,
}  # fmt: skip


def median(call: Callable[[], object]) -> float:
    """Median seconds of a call on the GPU, the second-level cache emptied before each."""
    from triton.testing import do_bench

    return float(do_bench(call, warmup=10, rep=40, return_mode="median")) / 1e3


def copy_bandwidth() -> float:
    """Bytes a second that a large copy reads and writes."""
    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() * source.element_size() / median(lambda: target.copy_(source))


def time_launch(launch: Launch) -> float:
    """Median seconds of one kernel with the arguments that were written down."""
    module, _, name = launch.kernel.rpartition(":")
    kernel = getattr(importlib.import_module(module), name)
    return median(lambda: kernel[launch.grid](**launch.arguments, **launch.options))


def by_torch(shape: Shape) -> float:
    """Seconds of the forward by torch's attention, with the bias as a matrix."""
    lines, length = shape.length, shape.length
    q, k, v = torch.randn(3, lines, shape.heads, length, shape.channels, device="cuda", dtype=shape.dtype)
    bias = torch.randn(1, shape.heads, length, length, device="cuda", dtype=shape.dtype)
    return median(lambda: F.scaled_dot_product_attention(q, k, v, bias))


def kernels(bandwidth: float) -> Iterator[dict[str, Any]]:
    """The figures of every attention and norm kernel of interest."""
    found = {shape.title: gpu.of_attention(shape, device="cuda") for shape in (*gpu.PAPER, *gpu.SMALL, *gpu.OTHERS)}
    found["4096 vectors of 512, bfloat16"] = gpu.of_layer_norm(4096, 512, device="cuda")
    found["a row over 64 cached ones, batch 20, bfloat16"] = gpu.of_cached_attention(20, 64, device="cuda")
    card = gpu.CARDS["sm_90"]
    peers = {shape.title: by_torch(shape) for shape in gpu.PAPER if not shape.conditioned}
    for title, launch in ((title, launch) for title, launches in found.items() for launch in launches):
        seconds, name = time_launch(launch), launch.kernel.rpartition(":")[2].removesuffix("_kernel")
        yield {
            "shape": title,
            "kernel": name,
            "µs": 1e6 * seconds,
            "estimated µs": 1e6 * launch.seconds(card),
            "of the bandwidth": launch.moved / seconds / bandwidth,
            "TFLOP/s": launch.flops / seconds / 1e12,
            "torch µs": 1e6 * peers[title] if name == "forward" and title in peers else None,
        }


@torch.no_grad()
def random_row(batch: int, dtype: torch.dtype, device: str = "cuda") -> tuple[DecoderWeights, RowTerms, Tensor]:
    """The first row of images of noise, in the paper's colorizer with random weights."""
    model = setting.load_models(setting.PAPER, ["colorizer"])["colorizer"]
    network: Any = setting.build(model, torch.device(device), dtype)
    z = torch.randn(batch, *model["resolution"], model["hidden_size"], device=device, dtype=dtype)
    terms = InnerRows(network.inner_decoder, z, norm="exact").terms(0, torch.zeros_like(z[:, 0]))
    return decoder_weights(network), terms, torch.rand(terms.inputs.shape[:2], device=device)


def described(plan: Plan) -> str:
    """For a table."""
    return f"{plan.programs} programs, {'resident' if plan.resident else 'streamed'}"


def rows(batch: int, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """Milliseconds of the 64 rows of an image by every plan, pixel by pixel, beside the estimates."""
    row = random_row(batch, dtype)
    sizes: Sizes = decode_launch.sizes_of(*row[:2])
    device = decode_launch.device_of(row[1].inputs)
    chosen = decode_launch.choose_plan(sizes, device)
    for plan in sorted(decode_launch.fitting_plans(sizes, device)):
        arguments = decode_launch.kernel_arguments(*row, plan, **OPTIONS)
        seconds = _row_seconds(decode_launch.decode_row_kernel, plan, -(-batch // plan.tile), arguments)
        estimate = sizes.width * 1e-3 * decode_launch.row_time(plan, sizes, device)
        yield _of_plan("pixel by pixel", batch, dtype, plan, plan == chosen, seconds, estimate)


def settled_rows(batch: int, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """The same by fixed point, a window that goes through the row in passes over 16 pixels."""
    row = random_row(batch, dtype)
    sizes = settle_launch.as_tiles(decode_launch.sizes_of(*row[:2]))
    device = decode_launch.device_of(row[1].inputs)
    chosen = settle_launch.choose_plan(decode_launch.sizes_of(*row[:2]), device)
    guess = decode_launch.decode_row(*row, **OPTIONS)[0]  # right everywhere: a pass settles its window
    for plan in sorted(decode_launch.fitting_plans(sizes, device)):
        given = settle_launch.kernel_arguments(*row, guess, plan, window=16, influence=None, **OPTIONS)
        seconds = _row_seconds(settle_launch.settle_row_kernel, plan, batch, given)
        passes = int(given["passes"].sum()) / batch
        found = _of_plan("by fixed point", batch, dtype, plan, plan == chosen, seconds, None)
        yield found | {"µs a pass": 1e6 * seconds / passes, "passes": passes}


def _row_seconds(kernel: Any, plan: Plan, tiles: int, arguments: dict[str, Any]) -> float:
    """Median seconds of a row, with the clearing of the barriers' counters."""

    def launch() -> None:
        arguments["counters"].zero_()
        kernel[(plan.programs, tiles)](**arguments, **decode_launch.launch_options(plan))

    return median(launch)


def _of_plan(
    way: str, batch: int, dtype: torch.dtype, plan: Plan, chosen: bool, seconds: float, estimate: float | None
) -> dict[str, Any]:
    return {
        "way": way,
        "batch": batch,
        "dtype": str(dtype).removeprefix("torch."),
        "plan": described(plan),
        "chosen": "chosen" if chosen else "",
        "ms of 64 rows": 64e3 * seconds,
        "estimated": estimate,
    }


def _show(title: str, found: list[dict[str, Any]]) -> None:
    cells = [[tables.number(x) if isinstance(x, float) else str(x or tables.ABSENT) for x in f.values()] for f in found]
    if found:
        tables.console().print(tables.to_rich(tables.Table(title, list(found[0]), [tuple(row) for row in cells])))


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    parser = cli.parser(__doc__)
    parser.add_argument("--batch", type=cli.at_least(1), nargs="+", default=[1, 20, 64])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--no-kernels", action="store_true", help="without the attention and norm kernels")
    parser.add_argument("--no-rows", action="store_true", help="without the row decoders")
    options = parser.parse_args(argv)
    if not torch.cuda.is_available():
        raise UserError("There is no GPU here.")
    device, bandwidth = torch.device("cuda"), copy_bandwidth()
    here, limits = machine.describe(device), machine.measure_limits(device)
    rate = limits.flops["bfloat16"] / 1e12
    print(
        f"{here['gpu']}: a large copy moves {bandwidth / 1e12:.2f} TB/s, a product in bfloat16 does {rate:.0f} TFLOP/s"
    )
    of_kernels = [] if options.no_kernels else list(kernels(bandwidth))
    _show("Kernels", of_kernels)
    of_rows: list[dict[str, Any]] = []
    for name in () if options.no_rows else options.dtype:
        for batch in options.batch:
            for way in (rows, settled_rows):
                of_way = list(way(batch, getattr(torch, name)))
                of_rows += of_way
                _show(f"The paper's rows, {name}, batch {batch}", of_way)
    print(
        json.dumps(
            {
                "machine": here,
                "limits": limits._asdict(),
                "copy bandwidth": bandwidth,
                "kernels": of_kernels,
                "rows": of_rows,
            }
        )
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
