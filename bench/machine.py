# SPDX-License-Identifier: Apache-2.0
"""What a benchmark runs on: its description, and the limits that torch itself reaches there."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Callable, Iterable
from importlib import metadata, util
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.benchmark import Timer

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = {"cpu": (4096, 512, 512), "cuda": (8192, 8192, 8192)}  # sizes of the large product
SMALLEST_CACHED = 4 << 20  # bytes; below it calling torch takes longer than reading


def describe(device: torch.device) -> dict[str, Any]:
    """Processor, cores, threads, GPU, versions and commit; None for what the system does not tell."""
    unix = hasattr(os, "sysconf")
    return {
        "processor": _processor(),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if unix else None,
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": metadata.version("triton") if util.find_spec("triton") else None,
        "commit": _commit(),
        "load before": round(os.getloadavg()[0], 2) if unix else None,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text(encoding="utf-8")) if info.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit, with a plus where the sources differ from it; None outside a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True).stdout

    try:
        changed = git("status", "--porcelain", "--", "coltran", "kernels", "bench/*.py", "setup.py")
        return git("rev-parse", "--short=10", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


class Limits(NamedTuple):
    """The fastest that torch does these here."""

    product: tuple[int, int, int]  # sizes of the matrix product
    flops: dict[str, float]  # of the product, a second, by dtype
    cached_bytes: int  # size of the buffer that is read from the cache
    cache_bandwidth: float  # bytes a second


def large_product(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], object], int]:
    """The product whose rate is the limit, to be called, and its floating-point operations."""
    rows, inner, columns = PRODUCT.get(device.type, PRODUCT["cpu"])
    a, b = torch.randn(rows, inner).to(device, dtype), torch.randn(inner, columns).to(device, dtype)
    out = torch.empty(rows, columns, device=device, dtype=dtype)
    return lambda: torch.mm(a, b, out=out), 2 * rows * inner * columns


def measure_limits(
    device: torch.device, precisions: Iterable[str], cached_bytes: int = 0, seconds: float = 0.5
) -> Limits:
    """Measures for about `seconds` each: the large product in some precisions, and reading from the cache.

    `cached_bytes` have to stay in that, such as the weights that are read for every pixel.
    """

    def product_rate(precision: str) -> float:
        multiply, operations = large_product(device, getattr(torch, precision))
        return operations / _median_seconds(multiply, seconds)

    def read_rate(size: int) -> float:
        """Bytes a second of the fastest way that torch has to read once: a sum, or a matrix times a vector."""
        buffer, vector = torch.ones(size // 4 // 1024, 1024, device=device), torch.ones(1024, device=device)
        ways = (buffer.sum, lambda: torch.mv(buffer, vector))
        return 4 * buffer.numel() / min(_median_seconds(way, seconds / 2) for way in ways)

    cached = max(cached_bytes, SMALLEST_CACHED)
    rates = {precision: product_rate(precision) for precision in precisions}
    return Limits(PRODUCT.get(device.type, PRODUCT["cpu"]), rates, cached, read_rate(cached))


def best(a: Limits, b: Limits) -> Limits:
    """The faster of two measurements, entry by entry: something else may have run during one of them."""
    return a._replace(
        flops={name: max(rate, b.flops[name]) for name, rate in a.flops.items()},
        cache_bandwidth=max(a.cache_bandwidth, b.cache_bandwidth),
    )


def _median_seconds(call: Callable[[], object], seconds: float) -> float:
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    timer.timeit(3)  # not counted
    return timer.blocked_autorange(min_run_time=seconds).median
