# SPDX-License-Identifier: Apache-2.0
"""Panoramas coloured by the networks in the package show no seam where one square goes on from another."""

from __future__ import annotations

import numpy as np
import pytest

from coltran.image import load_photo
from coltran.loading import PRETRAINED, from_pretrained
from coltran.photo import squares
from coltran.photo.recolor import luminance

DEMO = PRETRAINED.parent / "demo"


@pytest.mark.parametrize(("height", "width"), [(64, 256), (250, 25)], ids=["4 : 1", "1 : 10"])
def test_the_chroma_steps_no_more_across_a_seam_than_elsewhere(height, width):
    if not PRETRAINED.is_dir():
        pytest.skip("no weights come with this installation")
    pipeline = from_pretrained()
    photo = load_photo(DEMO / "fjord.jpg")
    image = pipeline(photo[100 : 100 + height, :width], stage="color", size="network", top_p=0.9).images[0]
    axis = int(width > height)
    chroma = (image - luminance(image)[..., None]).swapaxes(0, axis)
    steps = np.abs(np.diff(chroma, axis=0)).mean((1, 2))
    begins = squares.starts(len(chroma), pipeline.low)
    seams = sorted({begin - 1 for begin in begins[1:]} | {begin + pipeline.low - 1 for begin in begins[:-1]})
    elsewhere = np.delete(steps, seams)
    # As many steps picked at random have a mean beyond two standard errors once in 40 times.
    assert steps[seams].mean() <= elsewhere.mean() + 2 * elsewhere.std() / len(seams) ** 0.5
