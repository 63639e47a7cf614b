# SPDX-License-Identifier: Apache-2.0
"""The attention and norm kernels at given shapes: how they are launched, what they move and compute, what they need.

    python bench/kernel_figures.py

Prints as Markdown, for each GPU, the registers, spills and shared memory of each kernel as compiled for it, and an
estimate of its time. Bytes count every tensor once: what several programs of a line read again is in the second-level
cache.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import triton.language as tl

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout, in place of bench/

from bench import tables
from bench.ahead import TARGETS, compile_ahead
from bench.estimates import CARDS, UTILISATION, Card
from coltran import cli
from coltran_kernels.triton import attention, attention_backward, cached_attention, layer_norm, tiles

LAUNCH = 3e-6  # assumed seconds between two kernels
CARD_OF = dict(zip(("sm_80", "sm_90"), CARDS, strict=True))


class Shape(NamedTuple):
    """One call of axial attention along rows, on a square image."""

    length: int
    channels: int
    conditioned: bool = False
    causal: bool = False
    dtype: str = "bfloat16"
    heads: int = 4
    images: int = 1

    @property
    def title(self) -> str:
        """For a table."""
        parts = [f"L {self.length}", f"C {self.channels}", self.dtype]
        parts += ["conditioned"] * self.conditioned + ["causal"] * self.causal
        return ", ".join(parts)


PAPER = (  # the colorizer's encoder, its conditioned decoders, the spatial upsampler
    Shape(64, 128),
    Shape(64, 128, conditioned=True, causal=True),
    Shape(256, 128),
)
SMALL = (Shape(64, 16, conditioned=True, causal=True), Shape(256, 16))
OTHERS = (  # that no configuration has in bfloat16, and the paper's in float32
    Shape(256, 128, causal=True),
    Shape(256, 128, conditioned=True, causal=True),
    *(shape._replace(dtype="float32") for shape in PAPER),
    *(shape._replace(dtype="float32") for shape in SMALL),
)


class Launch(NamedTuple):
    """One kernel of a call."""

    kernel: str  # "module:name"
    arguments: dict[str, Any]
    options: dict[str, int]
    programs: int
    read_and_written: int  # bytes
    flops: int

    @property
    def name(self) -> str:
        """For a table."""
        return self.kernel.rpartition(":")[2].removesuffix("_kernel")

    def seconds(self, card: Card) -> float:
        """Estimated: its bytes at the card's bandwidth, or its products at an assumed share of the card's rate."""
        return max(self.read_and_written / card.bandwidth, self.flops / (UTILISATION * card.flops)) + LAUNCH


def of_attention(shape: Shape, *, hip: bool) -> Iterator[Launch]:
    """The kernels of one forward and one backward."""
    length, channels, heads = shape.length, shape.channels, shape.heads
    tensor = shape.images * length * length * heads * channels * (4 if shape.dtype == "float32" else 2)  # bytes
    pairs = shape.images * length * heads * length * length
    pixel = 3 * heads * channels
    fused = (length * length * pixel, length * pixel, pixel, channels)  # q, k and v are parts of one product
    alone = tuple(stride // 3 for stride in fused[:3]) + (channels,)
    both = tuple(2 * stride for stride in fused[:3]) + (channels,)
    term = shape.dtype if shape.conditioned else None
    operand = (shape.dtype, term, term)
    arguments: dict[str, Any] = {
        **dict.fromkeys(("Q", "K", "V", "DQ", "DK", "DV"), operand),
        **dict.fromkeys(("BIAS", "OUT", "GRAD"), shape.dtype),
        **dict.fromkeys(("LSE", "DBIAS", "DELTA"), "float32"),
        **dict.fromkeys(("q_strides", "k_strides", "v_strides"), (fused, both, both)),
        **dict.fromkeys(("out_strides", "grad_strides"), alone),
        "lines": length,
        "heads": heads,
        "LENGTH": length,
        "C": channels,
        "CAUSAL": shape.causal,
        "BC": tiles.block_of_channels(channels),
        "TYPE": tl.float32,
    }
    conditions = 6 * shape.conditioned  # of q, k and v, two each
    programs = shape.images * length * heads

    def launch(module: str, kernel: Any, blocks: int, tensors: int, products: int, warps: int, **sizes: int) -> Launch:
        given = {name: (arguments | sizes)[name] for name in kernel.arg_names}
        options = attention_backward.options(warps, hip=hip or module == "attention")
        name = f"coltran_kernels.triton.{module}:{kernel.fn.__name__}"
        return Launch(name, given, options, programs * blocks, tensors * tensor, 2 * products * pairs * channels)

    itemsize = 4 if shape.dtype == "float32" else 2
    size = (length, channels, itemsize)
    one_tile = attention_backward.in_one_tile(*size)
    if one_tile:
        arguments["LSE"] = None
    tile = attention.tiling(*size, conditioned=shape.conditioned, hip=hip)
    forward = attention.forward_kernel
    blocks = -(-length // tile.queries)
    yield launch("attention", forward, blocks, 4 + conditions, 2, tile.warps, BQ=tile.queries, BK=tile.keys)
    tile, module = attention_backward.tiling(*size, hip=hip), "attention_backward"
    if one_tile:
        yield launch(module, attention_backward.line_kernel, 1, 7 + 2 * conditions, 5, tile.warps, N=tile.keys)
        return
    sizes = {"BQ": tile.queries, "BK": tile.keys}
    of_queries, of_keys = -(-length // tile.queries), -(-length // tile.keys)
    of_q, of_k_and_v = conditions // 3, 2 * conditions // 3  # the gradients of scales and shifts
    query, key = attention_backward.query_kernel, attention_backward.key_kernel
    yield launch(module, query, of_queries, 6 + conditions + of_q, 3, tile.warps, **sizes)
    yield launch(module, key, of_keys, 6 + conditions + of_k_and_v, 4, tile.warps, **sizes)


def of_layer_norm(vectors: int, size: int, dtype: str = "bfloat16") -> Iterator[Launch]:
    """The kernels of one forward and one backward, with a residual and a scale and shift for each image."""
    tensor = vectors * size * (4 if dtype == "float32" else 2)
    arguments: dict[str, Any] = {
        **dict.fromkeys(("X", "RESIDUAL", "SCALE", "SHIFT", "Y", "DY", "DX"), dtype),
        **dict.fromkeys(("MEAN", "RSTD", "DSCALE", "DSHIFT"), "float32"),
        **{"R": vectors, "scale_stride": size, "shift_stride": size, "eps": 1e-3, "D": size, "TYPE": tl.float32},
    }
    for kernel, tensors, steps in (
        (layer_norm.forward_kernel, 3, 1),
        (layer_norm.backward_kernel, 4, layer_norm.STEPS),
    ):
        tile = layer_norm.tiling(size)
        given = arguments | {"BD": tile.block, "ROWS": tile.rows, "STEPS": steps}
        yield Launch(
            f"coltran_kernels.triton.layer_norm:{kernel.fn.__name__}",
            {name: given[name] for name in kernel.arg_names},
            {"num_warps": tile.warps},
            -(-vectors // (tile.rows * steps)),
            tensors * tensor,
            0,
        )


def of_cached_attention(batch: int, length: int, dtype: str = "bfloat16") -> Iterator[Launch]:
    """The outer decoder's column attention for one new row at the paper's size, over `length` kept rows."""
    width, heads, channels = 64, 4, 128
    row = batch * width * heads * channels * (4 if dtype == "float32" else 2)
    kernel = cached_attention.kernel
    one_row, kept = (width * heads * channels, heads * channels, channels), heads * channels
    given: dict[str, Any] = {
        **dict.fromkeys(("Q", "K", "V", "BIAS", "OUT"), dtype),
        **{"q_strides": one_row, "bias_strides": (128, 1), "width": width, "heads": heads, "length": length},
        **dict.fromkeys(("k_strides", "v_strides"), (width * 64 * kept, kept, 64 * kept, channels)),
        **{"C": channels, "BC": channels, "BT": cached_attention.ROWS, "TYPE": tl.float32},
    }
    yield Launch(
        "coltran_kernels.triton.cached_attention:kernel",
        {name: given[name] for name in kernel.arg_names},
        {"num_warps": 4},
        batch * width * heads,
        2 * row * (length + 1),
        0,
    )


def table(target: str, launches: dict[str, list[Launch]]) -> tables.Table:
    """What each kernel needs on one target; with an estimate of its time where the card is known."""
    card = CARD_OF.get(target)
    rows = []
    for title, of_shape in launches.items():
        for launch in of_shape:
            compiled = compile_ahead(launch.kernel, launch.arguments, target=target, **launch.options)
            needs = (compiled.registers, compiled.spill_bytes, compiled.shared, compiled.matrix_instructions)
            occupancy = "–" if target == "gfx942" else str(compiled.blocks * compiled.num_warps)
            work = (tables.size(launch.read_and_written), tables.number(launch.flops / 1e9))
            datasheet = card is not None and "float32" not in title  # whose rate is for bfloat16
            time = tables.number(1e6 * launch.seconds(card)) if card and datasheet else tables.ABSENT
            rows.append((title, launch.name, str(compiled.num_warps), *map(str, needs), occupancy, *work, time))
    heads = ("shape", "kernel", "warps", "registers", "spilled, B", "shared, B", "matrix instr.", "warps an SM")
    note = (
        f"Time: an estimate at {UTILISATION:.0%} of the datasheet's arithmetic and all of its bandwidth. Not measured."
    )
    return tables.Table(f"Compiled for {target}", (*heads, "moved", "GFLOP", "estimated µs"), rows, note)


def all_launches(*, hip: bool) -> dict[str, list[Launch]]:
    """Every kernel at every shape of interest, by a title."""
    found = {shape.title: list(of_attention(shape, hip=hip)) for shape in (*PAPER, *SMALL, *OTHERS)}
    found["4096 vectors of 512, bfloat16"] = list(of_layer_norm(4096, 512))
    return found | {"a row over 64 kept ones, batch 20, bfloat16": list(of_cached_attention(20, 64))}


def main() -> int:
    """The program; returns its exit code."""
    for target in TARGETS:
        found = table(target, all_launches(hip=target == "gfx942"))
        print(f"### {found.title}\n\n{tables.to_markdown(found)}\n", flush=True)
    return 0


if __name__ == "__main__":
    cli.run(main)
