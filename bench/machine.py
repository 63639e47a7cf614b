# SPDX-License-Identifier: Apache-2.0
"""What a benchmark runs on: its description, and the limits that torch itself reaches there."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.timing import synchronize

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = {"cpu": (4096, 512, 512), "cuda": (8192, 8192, 8192)}  # sizes of the large product
SMALLEST_CACHED = 4 << 20  # bytes; below it calling torch takes longer than reading
MEMORY = 512 << 20  # bytes, beyond any cache


def describe(device: torch.device) -> dict[str, Any]:
    """Processor, cores, threads, GPU, versions and commit."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": usable,
        "threads": torch.get_num_threads(),
        "memory": _memory(),
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "commit": _commit(),
        "load before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> int | None:
    """Bytes, where the system tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit, with a plus where the sources differ from it; None outside a checkout."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "coltran", "kernels", "bench/*.py", "setup.py")
        return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


class Limits(NamedTuple):
    """The fastest that torch does these here."""

    product: tuple[int, int, int]  # sizes of the matrix product
    flops: dict[str, float]  # of the product, a second, by dtype
    cached_bytes: int  # size of the buffer that is read from the cache
    cache_bandwidth: float  # bytes a second
    memory_bandwidth: float


def measure_limits(device: torch.device, cached_bytes: int = 0, seconds: float = 0.5) -> Limits:
    """Measures for about `seconds` each: the large product, and reading from the cache and from memory.

    Args:
        device: where.
        cached_bytes: what has to stay in the cache, such as the weights that are read for every pixel.
        seconds: how long to repeat each.
    """
    product = PRODUCT.get(device.type, PRODUCT["cpu"])
    cached = max(cached_bytes, SMALLEST_CACHED)
    rates = {
        str(dtype).removeprefix("torch."): _product_rate(device, product, dtype, seconds)
        for dtype in (torch.float32, torch.bfloat16)
    }
    return Limits(
        product, rates, cached, _read_rate(device, cached, seconds), _read_rate(device, MEMORY, seconds)
    )  # fmt: skip


def best(a: Limits, b: Limits) -> Limits:
    """The faster of two measurements, entry by entry: something else may have run during one of them."""
    return Limits(
        a.product,
        {name: max(rate, b.flops[name]) for name, rate in a.flops.items()},
        a.cached_bytes,
        max(a.cache_bandwidth, b.cache_bandwidth),
        max(a.memory_bandwidth, b.memory_bandwidth),
    )


def _median_seconds(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    """The median time of a call, from as many calls as fit, after three that do not count."""
    for _ in range(3):
        call()
    synchronize(device)
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        start = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _product_rate(device: torch.device, sizes: tuple[int, int, int], dtype: torch.dtype, seconds: float) -> float:
    rows, inner, columns = sizes
    a = torch.randn(rows, inner, device=device).to(dtype)
    b = torch.randn(inner, columns, device=device).to(dtype)
    out = torch.empty(rows, columns, device=device, dtype=dtype)
    return 2 * rows * inner * columns / _median_seconds(lambda: torch.mm(a, b, out=out), device, seconds)


def _read_rate(device: torch.device, size: int, seconds: float) -> float:
    """Bytes a second of the fastest way that torch has to read a buffer once: a sum, or a matrix times a vector."""
    buffer = torch.ones(size // 4 // 1024, 1024, device=device)
    vector = torch.ones(1024, device=device)
    out = torch.empty(buffer.shape[0], device=device)

    def product() -> Tensor:
        return torch.mv(buffer, vector, out=out)

    fastest = min(_median_seconds(call, device, seconds / 2) for call in (buffer.sum, product))
    return 4 * buffer.numel() / fastest
