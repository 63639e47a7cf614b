# SPDX-License-Identifier: Apache-2.0
"""A training keeps its memory for its next step, and a large photograph needs little of it."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent

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


# In a process of its own: one that has trained keeps what it gives back.
LARGE = """
import sys
from pathlib import Path
from coltran.photo import files
from tests.tiny import tiny_pipeline

def resident(line):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(found.split()[1]) for found in lines if found.startswith(line)) / 1000

pipeline, folder = tiny_pipeline(), Path(sys.argv[1])
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
photo = files.read(folder / "large.jpg")
image = pipeline(photo.pixels, stage="coarse").images[0]
files.write(image, folder / "result.jpg", format="jpeg", quality=95, kept=photo.metadata)
assert image.shape == (2828, 4243, 3)
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="this system does not tell the peak of memory")
def test_twelve_megapixels_are_read_coloured_and_written_within_a_gigabyte(tmp_path):
    small = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    large = Image.fromarray(cv2.resize(small, (4243, 2828), interpolation=cv2.INTER_CUBIC))
    large.save(tmp_path / "large.jpg", quality=90)
    command = [sys.executable, "-c", LARGE, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert 12 * 3 < float(run.stdout) < 1000  # megabytes; the photograph itself is seen
