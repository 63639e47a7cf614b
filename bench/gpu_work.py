# SPDX-License-Identifier: Apache-2.0
"""What an image asks of a GPU: kernels at the shapes that count, launches by stage, an estimate of its time."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from bench import counting, record, setting
from bench.ahead import compile_ahead
from bench.emulate import CPU, META, PASSES, Issued, Launch, launches, on_gpu
from coltran.devices.choose import PRECISIONS
from coltran.networks.colorizer import Colorizer
from coltran.sampling import decoding_graphs
from coltran_kernels.attention import triton as attention
from coltran_kernels.decode_row import row as row_counts
from coltran_kernels.layer_norm import triton as layer_norm


class Card(NamedTuple):
    """A line of a datasheet."""

    name: str
    flops: float  # dense bfloat16, a second
    bandwidth: float  # of its memory, bytes a second
    processors: int  # streaming multiprocessors


CARDS = {"sm_80": Card("A100 SXM 80 GB", 312e12, 2.04e12, 108), "sm_90": Card("H100 SXM", 989e12, 3.35e12, 132)}
UTILISATION = 0.5  # assumed share of the rate in large products
LAUNCH = 3e-6  # assumed seconds between two kernels
ASSUMED = (
    f"Estimated: datasheet rates, {100 * UTILISATION:.0f} % of the arithmetic and all of the bandwidth, "
    f"{1e6 * LAUNCH:.0f} µs between kernels. Not measured."
)


def kernel_seconds(launch: Launch, card: Card) -> float:
    """Estimated."""
    return max(launch.moved / card.bandwidth, launch.flops / (UTILISATION * card.flops)) + LAUNCH


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
PRODUCTS = {"forward": 2, "line": 5, "query": 3, "key": 4}  # of L x L x C, by the kernel's name


def of_attention(shape: Shape, *, hip: bool = False, device: str = "meta") -> list[Launch]:
    """The kernels of one forward and one backward; queries, keys and values are parts of one product."""
    pixels, heads = (1, shape.length, shape.length), (shape.heads, shape.channels)
    with torch.device(device), launches(hip=hip) as found:
        parts = torch.empty(*pixels, 3, *heads, dtype=shape.dtype).unbind(3)
        terms = [torch.empty(*pixels, 2, *heads, dtype=shape.dtype).unbind(3) for _ in parts]
        operands = [
            t for x, own in zip(parts, terms, strict=True) for t in (x, *(own if shape.conditioned else (None, None)))
        ]
        bias = torch.empty(shape.heads, 2 * shape.length, dtype=shape.dtype)
        out, lse = attention.forward(operands, bias, axis="row", causal=shape.causal, train=True)
        attention.backward(operands, bias, out, lse, torch.empty_like(out), axis="row", causal=shape.causal)
    product = 2 * shape.heads * shape.length**3 * shape.channels
    return [launch._replace(flops=PRODUCTS[launch.name] * product) for launch in found]


def of_layer_norm(vectors: int, size: int, *, device: str = "meta") -> list[Launch]:
    """The kernels of one forward and one backward, with a residual and a scale and shift for each image."""
    with torch.device(device), launches() as found:
        x, residual, grad = torch.empty(3, 1, vectors, size, dtype=torch.bfloat16)
        scale, shift = torch.empty(2, 1, size, dtype=torch.bfloat16)
        _, mean, rstd = layer_norm.forward(x, residual, scale, shift, 1e-3)
        layer_norm.backward(x, residual, scale, shift, mean, rstd, grad)
    return found


def of_append_attention(batch: int, dtype: torch.dtype = torch.bfloat16, *, device: str = "meta") -> list[Launch]:
    """The outer decoder's column attention for the last row at the paper's size."""
    width, heads, channels, height = 64, 4, 128, 64
    with torch.device(device), launches() as found:
        cache = torch.empty(2, batch, width, heads, height, channels, dtype=dtype)
        qkv, bias = torch.empty(batch, width, 3 * heads * channels, dtype=dtype), torch.empty(heads, 2 * height)
        attention.append_attention(qkv, cache, bias, torch.full((1,), height - 1))
    return found


def of_rows(batch: int, precision: str = "bfloat16") -> dict[str, list[Launch]]:
    """The kernels of a pass and of a row of the outer decoder at the paper's size."""
    captured = issued_by_stage("colorizer", batch, precision)[1].captured
    return {f"{name}, batch {batch}, {precision}": captured[name] for name in ("pass", "advance")}


def of_interest(*, hip: bool = False, device: str = "meta") -> dict[str, list[Launch]]:
    """The attention and norm kernels at the shapes that count."""
    shapes = [shape._replace(dtype=dtype) for dtype in (torch.bfloat16, torch.float32) for shape in (*PAPER, *SMALL)]
    found = {shape.title: of_attention(shape, hip=hip, device=device) for shape in shapes}
    found["4096 vectors of 512, bfloat16"] = of_layer_norm(4096, 512, device=device)
    found["a row over 64 cached ones, batch 20, bfloat16"] = of_append_attention(20, device=device)
    return found


def ahead(target: str) -> list[dict[str, Any]]:
    """What every kernel needs on one target, with a time where the card is known."""
    found = of_interest(hip=target == "gfx942")
    if target != "gfx942":  # tilings are those of an NVIDIA GPU
        found |= of_rows(1) | of_rows(20)
    card, rows = CARDS.get(target), []
    for title, launch in ((title, launch) for title, of_shape in found.items() for launch in of_shape):
        compiled = compile_ahead(launch.kernel, launch.arguments, target=target, **launch.options)
        known = card is not None and "float32" not in title and "batch" not in title  # estimated by the row instead
        rows.append(
            {
                "shape": title,
                "kernel": launch.name,
                "warps": compiled.num_warps,
                "registers": compiled.registers,
                "spilled, B": compiled.spill_bytes,
                "shared, B": compiled.shared,
                "instr.": sum(compiled.instructions.values()),
                "matrix instr.": compiled.matrix_instructions,
                "warps an SM": None if target == "gfx942" else compiled.blocks * compiled.num_warps,
                "moved": record.size(launch.moved),
                "GFLOP": launch.flops / 1e9,
                "estimated µs": 1e6 * kernel_seconds(launch, card) if known and card else None,
            }
        )
    return rows


def at_papers_size(stage: str, batch: int, device: torch.device) -> tuple[nn.Module, torch.Tensor]:
    """A network and images for it."""
    model = setting.load_models(stages=[stage])[stage]
    return setting.build(model, device), setting.random_images(batch, model, device)


def by_stage(
    run: Callable[[Callable[[str], None]], object], read: Callable[[], dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """How far each number that `read` gives goes during a run, by the stages that the run says it has finished."""
    found, before = dict[str, dict[str, Any]](), read()

    def finished(part: str) -> None:
        nonlocal before
        now, sums = read(), found.setdefault(part, dict.fromkeys(before, 0))
        found[part] = {name: sums[name] + now[name] - before[name] for name in now}
        before = now

    run(finished)
    if read() != before:
        finished("result")
    return found


def issued_by_stage(stage: str, batch: int, precision: str) -> tuple[dict[str, dict[str, int]], Issued]:
    """What a network issues for a batch once its graphs are captured, by the stages that it reports; and in all."""
    network, images = at_papers_size(stage, batch, META)
    run = partial(setting.run, network, images, precision)
    with torch.no_grad(), on_gpu(META) as issued:
        run()  # captures
        return by_stage(run, issued.counts), issued


def host_seconds(batch: int, precision: str) -> dict[str, float]:
    """Median processor seconds in which one thread issues a batch for the colorizer, all and by stage; not captures."""

    def narrow(section: dict[str, Any]) -> dict[str, Any]:
        sizes = {name: 8 for name in ("hidden_size", "ff_size") if name in section}
        return section | sizes | {name: narrow(part) for name, part in section.items() if isinstance(part, dict)}

    model = narrow(setting.load_models()["colorizer"])
    run = partial(setting.run, setting.build(model, CPU), setting.random_images(batch, model, CPU), precision)
    threads, found = torch.get_num_threads(), []
    torch.set_num_threads(1)
    with torch.no_grad(), on_gpu(CPU):
        run()
        for _ in range(5):
            parts = by_stage(run, lambda: {"seconds": time.process_time()})
            found.append({part: sums["seconds"] for part, sums in parts.items()})
    torch.set_num_threads(threads)
    found = [parts | {"all": sum(parts.values())} for parts in found]
    return {name: statistics.median(parts[name] for parts in found) for name in found[0]}


def launch_counts(batches: list[int]) -> dict[str, Any]:
    """By network, precision and batch what is issued, and of an image at batch 1 in bfloat16 the sums."""
    rows, graphs = list[dict[str, Any]](), dict[str, int]()
    for precision in PRECISIONS:
        for stage, batch in [
            *(("colorizer", batch) for batch in batches),
            *((stage, 1) for stage in setting.STAGES[1:]),
        ]:
            by_part, issued = issued_by_stage(stage, batch, precision)
            whole = {name: sum(part[name] for part in by_part.values()) for name in next(iter(by_part.values()))}
            parts = by_part | {"all": whole} if len(by_part) > 1 else by_part
            what = {"network": stage.replace("_", " "), "precision": precision, "batch": batch}
            rows += [what | {"stage": part} | counts for part, counts in parts.items()]
            if (stage, precision, batch) == ("colorizer", "bfloat16", batches[0]):
                graphs = issued.graphs
    image = next(
        row for row in rows if (row["precision"], row["batch"], row["stage"]) == ("bfloat16", batches[0], "all")
    )
    host = {part: 1e3 * seconds for part, seconds in host_seconds(batches[0], "bfloat16").items()}
    counts = {
        "batch": batches[0],
        "passes": PASSES,
        "replays": image["replays"],
        "kernels": image["kernels"] + image["in_graphs"],
        "kernels_outside_graphs": image["kernels"],
        "kernels_a_pass": graphs["pass"] - 1,  # without the flag's copy to the host
        "kernels_an_outer_row": graphs["advance"],
        "kernels_to_begin": graphs["begin"],
        "flags": image["flags"],
        "synchronisations": image["synchronisations"],
        "host_ms": host["all"],
        "host_ms_by_stage": {part: ms for part, ms in host.items() if part != "all"},
    }
    estimates = [estimate(batch, graphs["begin"], graphs["advance"]) for batch in batches]
    sources = {name: {"value": number, "source": source} for name, (number, source) in ASSUMPTIONS.items()}
    return {"stages": rows, "estimates": estimates, "assumptions": sources, "image": counts}


# What an image is estimated from: the number, and where it comes from.
ASSUMPTIONS: dict[str, tuple[float, str]] = {
    "passes": (5.8, "mean of a row, the package's colorizer on 20 photographs, temperature 1 (docs/notes/log.md)"),
    "passes_of_20": (11.3, "the same until the slowest of those 20 has settled"),
    "kernel_us": (
        row_counts.KERNEL,
        "a pass of 12 kernels is taken for 30 to 36 us in a graph: 1 to 1.5 us a launch, rest work",
    ),
    "settled_us": (1.3, "a kernel that returns at once: a launch in a graph"),
    "flag_us": (
        0.0,
        "the flag's way to the host and the next launch, some 10 us, pass while a settled pass runs, 16 us",
    ),
    "row_tflops": (
        row_counts.RATE / 1e6,
        "products of a row, in tiles of 16 to 64 pixels: 15 % of an H100's dense bfloat16",
    ),
    "large_tflops": (400.0, "products of whole images: 40 % of the same; 680 measured on an H200 in a large one"),
}


def estimate(batch: int, begin_kernels: int, advance_kernels: int) -> dict[str, Any]:
    """Milliseconds of a batch of the paper's colorizer in bfloat16 by stage, out of ASSUMPTIONS; not measured."""
    given = {name: number for name, (number, _) in ASSUMPTIONS.items()}
    network, _ = at_papers_size("colorizer", 1, META)
    assert isinstance(network, Colorizer)
    decoders = decoding_graphs.prepare(network, torch.bfloat16)
    height, width = network.outer_decoder.position.size
    slowest = given["passes"] + (given["passes_of_20"] - given["passes"]) * math.log(batch) / math.log(20)
    kernels, flops = row_counts.work_of_pass(decoders.inner, batch, width)
    of_layers = sum(t.numel() for _, layer in decoders.outer for t in layer if t.dim() == 2)
    of_row = 2 * batch * width * (of_layers + decoders.inner_upper.numel())
    pixels = 2 * batch * height * width
    of_gray = pixels * (decoders.outer_projection.weight.numel() + decoders.inner_projection.weight.numel())
    encoder = 2 * batch * counting.incremental(setting.load_models()["colorizer"])["encoder"]
    microseconds = {
        "begin": begin_kernels * given["kernel_us"] + (encoder + of_gray) / (given["large_tflops"] * 1e6),
        "passes": height
        * (slowest * kernels * given["kernel_us"] + given["passes"] * flops / (given["row_tflops"] * 1e6)),
        "settled passes and flags": height * (kernels * given["settled_us"] + given["flag_us"]),
        "outer decoder": (height - 1) * (advance_kernels * given["kernel_us"] + of_row / (given["row_tflops"] * 1e6)),
    }
    total = sum(microseconds.values()) / 1e3
    return {"batch": batch, "ms an image": total / batch, "ms": total} | {
        f"{name}, ms": time / 1e3 for name, time in microseconds.items()
    }
