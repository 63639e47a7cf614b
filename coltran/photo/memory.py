# SPDX-License-Identifier: Apache-2.0
"""How much memory there is, and about how much a photograph needs, which is asked before it is read whole."""

from __future__ import annotations

from pathlib import Path

BYTES = 20  # a pixel from reading to writing, an estimate: 18 were measured at 12 and at 100 megapixels
SMALL = 8_000_000  # pixels below which nobody asks


def needed(width: int, height: int) -> int:
    """About how many bytes a photograph of that size needs until its colouring is written: an estimate."""
    return BYTES * width * height


def available() -> int | None:
    """Bytes that this process may still take; None where that cannot be told."""
    found = [value for value in (_of_machine(), _of_group(), _of_limit()) if value is not None]
    return min(found, default=None)


def _of_machine() -> int | None:
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return None


def _of_group() -> int | None:
    """Of a container."""
    most, used = (_read(f"/sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current"))
    return max(0, int(most) - int(used)) if most.isdigit() and used.isdigit() else None


def _of_limit() -> int | None:
    """Of `ulimit -v`."""
    try:
        import resource  # of POSIX alone
    except ImportError:
        return None
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _read("/proc/self/statm").split()
    if most == resource.RLIM_INFINITY or not pages:
        return None
    return max(0, most - int(pages[0]) * resource.getpagesize())


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
