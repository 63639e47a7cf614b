# SPDX-License-Identifier: Apache-2.0
"""What `bench/gpu.py` measures on a GPU: whether kernels are right, floors, graphs, networks, kernels, training."""

from __future__ import annotations

import importlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from bench import machine, setting, timing, train_step
from bench.gpu_work import ASSUMPTIONS, CARDS, PAPER, Shape, at_papers_size, estimate, kernel_seconds, of_interest
from bench.suite import flex
from coltran.devices.choose import PRECISIONS
from coltran.sampling import cuda_graphs
from coltran_kernels import Pending, fused_linear, reference
from coltran_kernels.attention import triton as attention
from coltran_kernels.decode_row import row as row_counts


def median(call: Callable[[], object]) -> float:
    """Median seconds of a call on the GPU, the second-level cache emptied before each."""
    from triton.testing import do_bench

    return float(do_bench(call, warmup=10, rep=40, return_mode="median")) / 1e3


def copy_bandwidth() -> float:
    """Bytes a second that a large copy reads and writes."""
    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() * source.element_size() / median(lambda: target.copy_(source))


def measured_kernels() -> Iterator[dict[str, Any]]:
    """The attention and norm kernels, beside torch's own and the estimates."""
    bandwidth = copy_bandwidth()
    peers = {shape.title: by_torch(shape) for shape in PAPER if not shape.conditioned}
    for title, launch in ((t, launch) for t, found in of_interest(device="cuda").items() for launch in found):
        module, _, name = launch.kernel.rpartition(":")
        kernel = getattr(importlib.import_module(module), name)
        seconds = median(lambda: kernel[launch.grid](**launch.arguments, **launch.options))  # noqa: B023
        yield {
            "shape": title,
            "kernel": launch.name,
            "µs": 1e6 * seconds,
            "estimated µs": 1e6 * kernel_seconds(launch, CARDS["sm_90"]),
            "of the bandwidth": launch.moved / seconds / bandwidth,
            "TFLOP/s": launch.flops / seconds / 1e12,
        } | (peers.get(title, {}) if launch.name == "forward" else {})


def by_torch(shape: Shape) -> dict[str, float]:
    """Microseconds of the forward by torch's attention with the bias as a matrix; and how far both are from float32."""
    q, k, v = torch.randn(3, 1, *2 * [shape.length], shape.heads, shape.channels, device="cuda", dtype=shape.dtype)
    bias = torch.randn(shape.heads, 2 * shape.length, device="cuda", dtype=shape.dtype)
    q_, k_, v_ = (t[0].transpose(1, 2).contiguous() for t in (q, k, v))
    mask = reference.relative_bias(bias)[None]
    exact = F.scaled_dot_product_attention(q_.float(), k_.float(), v_.float(), mask.float())
    calls: dict[str, Callable[[], torch.Tensor]] = {
        "torch": lambda: F.scaled_dot_product_attention(q_, k_, v_, mask),
        "FlexAttention": lambda: flex(q, k, v, bias, axis="row")[0].transpose(1, 2),
    }
    operands = [t for x in (q, k, v) for t in (x, None, None)]
    found = {"error": attention.forward(operands, bias, axis="row", causal=False, train=False)[0][0].transpose(1, 2)}
    seconds = dict[str, float]()
    for name, call in calls.items():
        try:
            found[f"{name}'s"], seconds[f"{name} µs"] = call(), 1e6 * median(call)
        except Exception as error:  # a peer that does not run here is no reason to stop
            print(f"{name}: {type(error).__name__}: {error}"[:200])
    return seconds | {name: ((out.float() - exact).norm() / exact.norm()).item() for name, out in found.items()}


def measured_networks(device: torch.device, batches: list[int]) -> Iterator[dict[str, Any]]:
    """Seconds an image of every network, and for how much of that the host was issuing it."""
    for stage in setting.STAGES:
        for precision in PRECISIONS:
            for batch in batches if stage == "colorizer" else [1]:
                (network, images), found = at_papers_size(stage, batch, device), []
                for _ in range(4):
                    timing.synchronize(device)
                    start = time.perf_counter()
                    setting.run(network, images, precision)
                    issued = time.perf_counter() - start
                    timing.synchronize(device)
                    found.append((time.perf_counter() - start, issued))
                seconds, issued = sorted(found[1:])[1]
                what = {"network": stage.replace("_", " "), "precision": precision, "batch": batch}
                yield what | {"ms an image": 1e3 * seconds / batch, "of it issuing": issued / seconds}


def replayed(graph: Callable[[], None], before: Callable[[], object]) -> float:
    """Median seconds of a graph on the GPU, after what sets it going, which is timed alone and taken off."""

    def timed(call: Callable[[], object]) -> float:
        times = []
        for _ in range(30):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(10):
                call()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1e4)
        return statistics.median(times)

    return timed(lambda: [step() for step in (before, graph)]) - timed(before)


def measured_graphs(device: torch.device, batches: list[int]) -> Iterator[dict[str, Any]]:
    """Each graph of the colorizer at the paper's size, and what an image takes with as many passes as a trained one."""
    for precision in PRECISIONS:
        for batch in batches:
            (network, images) = at_papers_size("colorizer", batch, device)
            setting.run(network, images, precision)
            (drawing,) = cuda_graphs._kept[network][1].values()
            drawing = drawing[1]
            state, first = drawing.rows.state, torch.tensor([0, 1], device=device)
            begin = replayed(drawing.begin, lambda: None)
            a_pass = replayed(drawing.draw, lambda: state.final.zero_())  # noqa: B023
            settled = replayed(drawing.draw, lambda: state.final.fill_(1 << 20))  # noqa: B023
            advance = replayed(drawing.advance, lambda: state.rows.copy_(first))  # noqa: B023
            expected = estimate(batch, 168, 28)
            slowest = ASSUMPTIONS["passes" if batch == 1 else "passes_of_20"][0]
            height = images.shape[1]
            image = (begin + (height - 1) * advance + height * (slowest * a_pass + settled)) / batch
            yield {
                "precision": precision, "batch": batch, "begin, us": 1e6 * begin, "a pass, us": 1e6 * a_pass,
                "settled pass, us": 1e6 * settled, "outer row, us": 1e6 * advance, "ms an image, summed": 1e3 * image,
                "estimated, ms": expected["ms an image"] if precision == "bfloat16" else None,
            }  # fmt: skip


def floors() -> Iterator[dict[str, Any]]:
    """Microseconds of small kernels that wait for each other in a graph."""
    x = torch.zeros(64, 512, device="cuda", dtype=torch.bfloat16)
    weight, norm = torch.zeros(512, 512, device="cuda", dtype=torch.bfloat16), (torch.ones(512, device="cuda"),) * 2
    calls: dict[str, Callable[[], object]] = {
        "add_ of 64 x 512": lambda: x.add_(1.0),
        "cuBLAS 64 x 512 x 512": lambda: F.linear(x, weight),
        "fused_linear 64 x 512 x 512": lambda: fused_linear(Pending(x[None]), weight),
        "fused_linear with a norm": lambda: fused_linear(Pending(x[None], None, (norm,)), weight),
    }
    for name, call in calls.items():
        graph = cuda_graphs.capture(lambda: [call() for _ in range(100)])  # noqa: B023
        yield {"kernel": name, "us": 1e6 * replayed(graph, lambda: None) / 100, "estimated": row_counts.KERNEL}


def measured_steps(device: torch.device) -> Iterator[dict[str, Any]]:
    """Steps of training."""
    for precision in PRECISIONS:
        yield train_step.measure("medium_colorizer", 4, precision, 5, device, compiled=False)


def tests() -> Iterator[dict[str, Any]]:
    """Whether the kernels are right here."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "tests/test_gpu.py"]
    done = subprocess.run(command, cwd=machine.ROOT, capture_output=True, text=True)
    yield {"tests": "passed" if done.returncode == 0 else "failed", "said": done.stdout.strip().splitlines()[-1:]}


def measure(device: torch.device, batches: list[int]) -> dict[str, Any]:
    """All that is measured; for a part that failed, why."""
    parts: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "correctness": tests,
        "floors": floors,
        "graphs": lambda: measured_graphs(device, batches),
        "networks": lambda: measured_networks(device, batches),
        "kernels": measured_kernels,
        "training": lambda: measured_steps(device),
    }
    found: dict[str, Any] = {
        "machine": machine.describe(device),
        "limits": machine.measure_limits(device, PRECISIONS)._asdict(),
    }
    for name, part in parts.items():
        found[name] = rows = []
        try:
            for row in part():
                rows.append(row)
        except Exception as error:
            rows.append({"failed": f"{type(error).__name__}: {error}"})
    return found
