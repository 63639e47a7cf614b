# SPDX-License-Identifier: Apache-2.0
"""glibc malloc settings for training on a CPU."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of mallopt(3)


def keep_memory() -> bool:
    """Makes glibc reuse freed arrays instead of returning them to the system (mallopt), in this process, from now on.

    By default arrays above 32 MiB are mapped and unmapped each time, so every step pays for zeroed pages again.

    Returns:
        True under glibc; elsewhere nothing is done.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return bool(library.mallopt(_M_MMAP_MAX, 0) and library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
