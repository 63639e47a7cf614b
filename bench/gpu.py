# SPDX-License-Identifier: Apache-2.0
"""What GPUs that are not at hand should take to sample, and what each kernel needs of them: counts and estimates.

    python bench/gpu.py               how long sampling should take, from datasheets
    python bench/gpu.py --kernels     the attention and norm kernels compiled for four GPUs too (some minutes)

Sampling is counted for the paper's colorizer with bfloat16 weights. The parts that are matrix products over many pixels
run at an assumed half of the datasheet's dense bfloat16 rate, but never faster than their weights are read from memory
(once for the encoder, once a row for the others). The row decoding is counted in three forms of one launch a row:

resident    the weights stay on chip over the row, spread over the processors; a pixel costs its barriers between them
streaming   one processor a batch reads all weights for every pixel, and waits for nobody
fixed point the processors are shared out among the images; a pass over the rest of a row costs its barriers, and the
            weights once for 16 pixels where they do not fit on chip; the passes are those of the small trained network

A kernel's registers, spills and shared memory are those of its machine code. Its time is an estimate: its bytes at the
card's bandwidth, or its products at the assumed rate. Bytes count every tensor once (what several programs of a line
read again is in the second-level cache), but for statistics, the bias and what is one vector an image.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout, in place of bench/

from bench import counting, setting, tables
from bench.ahead import TARGETS, compile_ahead
from coltran import cli
from coltran_kernels.triton import attention, attention_backward, cached_attention, layer_norm


class Card(NamedTuple):
    """A line of a datasheet."""

    name: str
    flops: float  # dense bfloat16, a second
    bandwidth: float  # of its memory, bytes a second
    processors: int  # streaming multiprocessors


CARDS = {"sm_80": Card("A100 SXM 80 GB", 312e12, 2.04e12, 108), "sm_90": Card("H100 SXM", 989e12, 3.35e12, 132)}
UTILISATION = 0.5  # assumed share of the rate in large products
BARRIER = 2.5e-6  # assumed seconds of a barrier across the card, through its second-level cache
PROCESSOR_BANDWIDTH = 60e9  # assumed bytes a second that one processor reads from the second-level cache
BARRIERS_A_LAYER = 5  # after queries, keys and values; attention; its projection; both halves of the feed-forward
BYTES = 2  # a weight
PASSES, COMPUTED = 4.7, 3.8  # measured by bench/settling.py: passes a row, pixels computed for each one kept
ON_CHIP = 200e3  # bytes of weights that one processor keeps
LAUNCH = 3e-6  # assumed seconds between two kernels


def sampling_seconds(card: Card, batch: int) -> dict[str, float]:
    """Estimated seconds a batch of each stage, the row decoding in all forms."""
    model = setting.load_models(setting.PAPER, ["colorizer"])["colorizer"]
    macs = counting.incremental(model)
    height, width = model["resolution"]
    pixels, layers, rate = height * width, model["decoder"]["num_inner_layers"], UTILISATION * card.flops

    def products(stage: str, readings: int) -> float:
        weights = BYTES * macs[stage] // pixels  # hardly less than the multiply-adds of a pixel
        return max(batch * counting.flops(macs[stage]) / rate, readings * weights / card.bandwidth)

    decoding = batch * counting.flops(macs["row decoding"]) / rate
    weights = counting.step_weights(model) * BYTES
    streamed = pixels * weights / PROCESSOR_BANDWIDTH
    share = weights / max(1, card.processors // batch)  # of the weights, in a processor that works on one image
    blocks = math.ceil(COMPUTED * width / PASSES / 16)
    read = 0 if share <= ON_CHIP else blocks * share / PROCESSOR_BANDWIDTH
    rounds = math.ceil(batch / card.processors)
    one_pass = rounds * ((BARRIERS_A_LAYER * layers + 2) * BARRIER + read)
    return {
        "encoder": products("encoder", 1),
        "outer decoder": products("outer decoder", height),
        "conditioning": products("conditioning", height),
        "row decoding, resident": pixels * (BARRIERS_A_LAYER * layers + 1) * BARRIER + decoding,
        "row decoding, streaming": max(streamed, decoding * card.processors),
        "row decoding, fixed point": height * PASSES * one_pass + COMPUTED * decoding,
    }


def sampling_table(batches: list[int]) -> tables.Table:
    """The estimates, a line a card and batch size."""
    found = {(card.name, batch): sampling_seconds(card, batch) for card in CARDS.values() for batch in batches}
    rows = []
    for (name, batch), seconds in found.items():
        forms = [value for stage, value in seconds.items() if stage.startswith("row decoding")]
        fastest = sum(seconds.values()) - sum(forms) + min(forms)
        cells = (*seconds.values(), fastest / batch)
        rows.append((name, str(batch), *(tables.number(1000 * cell) for cell in cells)))
    columns = next(iter(found.values()))
    heads = ("card", "batch", *(f"{column}, ms" for column in columns), "ms an image, the fastest form")
    note = (
        f"Estimates: datasheet rates, {100 * UTILISATION:.0f} % of the arithmetic, {1e6 * BARRIER:.1f} µs a barrier, "
        f"{PROCESSOR_BANDWIDTH / 1e9:.0f} GB/s into one processor. Not measured."
    )
    return tables.Table("Estimates for cards that are not at hand", heads, rows, note)


class Shape(NamedTuple):
    """One call of axial attention along rows, on a square image."""

    length: int
    channels: int
    conditioned: bool = False
    causal: bool = False
    dtype: torch.dtype = torch.bfloat16
    heads: int = 4

    @property
    def title(self) -> str:
        """For a table."""
        parts = [f"L {self.length}", f"C {self.channels}", str(self.dtype).removeprefix("torch.")]
        return ", ".join([*parts, *["conditioned"] * self.conditioned, *["causal"] * self.causal])


PAPER = (  # the colorizer's encoder, its conditioned decoders, the spatial upsampler
    Shape(64, 128),
    Shape(64, 128, conditioned=True, causal=True),
    Shape(256, 128),
)
SMALL = (Shape(64, 16, conditioned=True, causal=True), Shape(256, 16))
OTHERS = (  # that no configuration has in bfloat16, and the paper's in float32
    Shape(256, 128, causal=True),
    Shape(256, 128, conditioned=True, causal=True),
    *(shape._replace(dtype=torch.float32) for shape in (*PAPER, *SMALL)),
)
PRODUCTS = {"forward_kernel": 2, "line_kernel": 5, "query_kernel": 3, "key_kernel": 4}  # of L x L x C, in attention


class Launch(NamedTuple):
    """One kernel of a call."""

    kernel: str  # "module:name"
    arguments: dict[str, Any]
    options: dict[str, int]
    grid: tuple[int, ...]
    flops: int = 0

    @property
    def moved(self) -> int:
        """Bytes of the tensors that are as large as the first."""

        def tensors(value: Any) -> Iterator[Tensor]:
            if isinstance(value, Tensor):
                yield value
            elif isinstance(value, tuple):
                yield from (tensor for item in value for tensor in tensors(item))

        found = list(tensors(tuple(self.arguments.values())))
        return sum(t.numel() * t.element_size() for t in found if t.numel() >= found[0].numel())

    def seconds(self, card: Card) -> float:
        """Estimated."""
        return max(self.moved / card.bandwidth, self.flops / (UTILISATION * card.flops)) + LAUNCH


@contextlib.contextmanager
def launches(*modules: ModuleType, hip: bool = False) -> Iterator[list[Launch]]:
    """Writes down how the kernels of modules are launched, on an NVIDIA GPU or, `hip`, on AMD's; launches nothing."""
    found: list[Launch] = []

    class Recorder:
        def __init__(self, name: str, kernel: Any) -> None:
            self.name, self.parameters = name, kernel.arg_names

        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            def launch(*positional: Any, **named: Any) -> None:
                everything = dict(zip(self.parameters, positional, strict=False)) | named
                arguments = {name: everything.pop(name) for name in self.parameters}
                found.append(Launch(self.name, arguments, everything, grid))

            return launch

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch.version, "hip", "any" if hip else None))
        for module in modules:
            for name in [name for name in vars(module) if name.endswith("kernel")]:
                recorder = Recorder(f"{module.__name__}:{name}", getattr(module, name))
                stack.enter_context(mock.patch.object(module, name, recorder))
        yield found


def of_attention(shape: Shape, *, hip: bool = False, device: str = "meta") -> list[Launch]:
    """The kernels of one forward and one backward; queries, keys and values are parts of one product."""
    pixels, heads = (1, shape.length, shape.length), (shape.heads, shape.channels)
    with torch.device(device), launches(attention, attention_backward, hip=hip) as found:
        parts = torch.empty(*pixels, 3, *heads, dtype=shape.dtype).unbind(3)
        terms = [torch.empty(*pixels, 2, *heads, dtype=shape.dtype).unbind(3) for _ in parts]
        operands = [
            t for x, own in zip(parts, terms, strict=True) for t in (x, *(own if shape.conditioned else (None, None)))
        ]
        bias = torch.empty(shape.heads, 2 * shape.length, dtype=shape.dtype)
        out, lse = attention.forward(operands, bias, axis="row", causal=shape.causal, train=True)
        attention_backward.backward(operands, bias, out, lse, torch.empty_like(out), axis="row", causal=shape.causal)
    product = 2 * shape.heads * shape.length**3 * shape.channels
    return [launch._replace(flops=PRODUCTS[launch.kernel.rpartition(":")[2]] * product) for launch in found]


def of_layer_norm(vectors: int, size: int, *, device: str = "meta") -> list[Launch]:
    """The kernels of one forward and one backward, with a residual and a scale and shift for each image."""
    with torch.device(device), launches(layer_norm) as found:
        x, residual, grad = torch.empty(3, 1, vectors, size, dtype=torch.bfloat16)
        scale, shift = torch.empty(2, 1, size, dtype=torch.bfloat16)
        _, mean, rstd = layer_norm.forward(x, residual, scale, shift, 1e-3)
        layer_norm.backward(x, residual, scale, shift, mean, rstd, grad)
    return found


def of_cached_attention(
    batch: int, length: int, dtype: torch.dtype = torch.bfloat16, *, device: str = "meta"
) -> list[Launch]:
    """The outer decoder's column attention for one new row at the paper's size, over `length` cached rows."""
    width, heads, channels = 64, 4, 128
    with torch.device(device), launches(cached_attention) as found:
        cache = torch.empty(2, batch, width, heads, 64, channels, dtype=dtype)
        keys, values = cache.permute(0, 1, 4, 2, 3, 5)[:, :, :length]
        q, bias = torch.empty(batch, width, heads, channels, dtype=dtype), torch.empty(heads, 128, dtype=dtype)
        cached_attention.cached_attention(q, keys, values, bias[:, :length])
    return found


def kernel_table(target: str) -> tables.Table:
    """What every kernel at every shape of interest needs on one target, with a time where the card is known."""
    found = {shape.title: of_attention(shape, hip=target == "gfx942") for shape in (*PAPER, *SMALL, *OTHERS)}
    found["4096 vectors of 512, bfloat16"] = of_layer_norm(4096, 512)
    found["a row over 64 cached ones, batch 20, bfloat16"] = of_cached_attention(20, 64)
    card, rows = CARDS.get(target), []
    for title, launch in ((title, launch) for title, of_shape in found.items() for launch in of_shape):
        compiled = compile_ahead(launch.kernel, launch.arguments, target=target, **launch.options)
        needs = (
            compiled.num_warps,
            compiled.registers,
            compiled.spill_bytes,
            compiled.shared,
            compiled.matrix_instructions,
        )
        occupancy = tables.ABSENT if target == "gfx942" else str(compiled.blocks * compiled.num_warps)
        known = card is not None and "float32" not in title  # the datasheet's rate is for bfloat16
        time = tables.number(1e6 * launch.seconds(card)) if known and card else tables.ABSENT
        work = (tables.size(launch.moved), tables.number(launch.flops / 1e9), time)
        rows.append(
            (title, launch.kernel.rpartition(":")[2].removesuffix("_kernel"), *map(str, needs), occupancy, *work)
        )
    heads = "shape|kernel|warps|registers|spilled, B|shared, B|matrix instr.|warps an SM|moved|GFLOP|estimated µs"
    note = f"Estimates: {UTILISATION:.0%} of the datasheet's arithmetic and all of its bandwidth. Not measured."
    return tables.Table(f"Compiled for {target}", heads.split("|"), rows, note)


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    parser = cli.parser(__doc__)
    parser.add_argument("--batch", type=cli.at_least(1), nargs="+", default=[1, 20])
    parser.add_argument("--kernels", action="store_true", help="also compile the attention and norm kernels")
    options = parser.parse_args(argv)
    console = tables.console()
    console.print(tables.to_rich(sampling_table(options.batch)))
    for target in TARGETS if options.kernels else ():
        console.print(tables.to_rich(kernel_table(target)))
    return 0


if __name__ == "__main__":
    cli.run(main)
