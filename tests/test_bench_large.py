# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.large import forget_peak, photograph, resident
from coltran import networks
from coltran.photo import files
from coltran.pipeline import Pipeline
from tests.tiny import colorizer_config


def test_the_peak_of_memory_is_seen() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system does not tell a process's peak of memory")
    forget_peak()
    before = resident()
    np.ones(50_000_000, np.uint8).sum()
    assert 45 < resident(most=True) - before < 200


def test_to_import_the_bench_leaves_the_guard_against_bombs_up() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None


def test_twelve_megapixels_are_read_coloured_and_written_within_a_gigabyte(tmp_path: Path) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system does not tell a process's peak of memory")
    Image.fromarray(photograph(12)).save(tmp_path / "large.jpg", quality=90)
    torch.manual_seed(5)
    pipeline = Pipeline(networks.build(colorizer_config(8, 8)).eval())
    forget_peak()
    before = resident()
    photo = files.read(tmp_path / "large.jpg")
    image = pipeline(photo.pixels, stage="coarse").images[0]
    files.write(image, tmp_path / "result.jpg", format="jpeg", quality=95, exif=photo.exif)
    assert resident(most=True) - before < 1000
    assert image.shape == photo.pixels.shape
    assert image.size > 3 * 11.9e6
