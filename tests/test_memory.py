# SPDX-License-Identifier: Apache-2.0
"""A training keeps its memory for its next step."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Bytes that the C library has got from the system array by array, while one more array of 48 MiB is there.
REPORT = """
import ctypes
import sys
import torch
from coltran.training.memory import keep_memory

class Report(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd".split()]
    _fields_ += [(name, ctypes.c_size_t) for name in "usmblks fsmblks uordblks fordblks keepcost".split()]

report = ctypes.CDLL(None).mallinfo2
report.restype = Report
if sys.argv[1] == "keep":
    assert keep_memory()
before = report().hblkhd
array = torch.ones(12 << 20)
print(report().hblkhd - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the switch")
@pytest.mark.parametrize(("how", "lowest", "highest"), [("keep", 0, 0), ("as it is", 48 << 20, 49 << 20)])
def test_a_large_array_comes_from_what_is_kept(how, lowest, highest):
    run = subprocess.run([sys.executable, "-c", REPORT, how], capture_output=True, text=True, check=True)
    assert lowest <= int(run.stdout) <= highest


def test_elsewhere_memory_is_left_alone(monkeypatch):
    from coltran.training import memory

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert memory.keep_memory() is False
