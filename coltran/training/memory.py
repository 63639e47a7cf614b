# SPDX-License-Identifier: Apache-2.0
"""How a training on a CPU gets its memory: once."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of mallopt(3)


def keep_memory() -> bool:
    """Lets the C library keep what is freed for the next array, in this process, from now on.

    By itself it asks the system for every array of more than 32 MiB and gives it back, so that each step finds its
    large arrays as new pages, which the system fills with zeros one by one.

    Returns:
        Whether there is such a switch: in glibc there is.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return bool(library.mallopt(_M_MMAP_MAX, 0) and library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
