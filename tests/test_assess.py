# SPDX-License-Identifier: Apache-2.0
"""Surprise, entropy and plausible colours, against the pipeline's own figures and against counting."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coltran.photo.hints import coarse_labels, shades
from coltran.photo.lab import to_ab
from coltran.photo.view import look
from coltran.sampling import sample
from coltran.sampling.assess import APART, Assessment, assess
from tests.tiny import LOW, tiny_pipeline


@pytest.fixture(scope="module")
def tiny():
    return tiny_pipeline()


@pytest.mark.parametrize("shape", [(20, 31), (10, 36), (36, 10)])
def test_the_mean_surprise_is_the_colourings_bits_a_pixel(tiny, shape):
    photo = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    found = tiny(photo, samples=10, stage="coarse")
    assessed = assess(tiny.colorizer, tiny.look(photo), found.labels)
    assert assessed.bits_per_pixel == pytest.approx([-log_prob for log_prob in found.log_prob], rel=1e-5)
    np.testing.assert_allclose(assessed.mean.sum(-1), 1, atol=1e-4)


def test_the_mean_distribution_is_that_of_the_pixels_given_those_before_them(tiny):
    photo = np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    view = tiny.look(photo)
    gray = torch.from_numpy(view.gray_low).expand(3, LOW, LOW)
    drawn = sample(tiny.colorizer, gray, seed=4, return_probabilities=True)
    assessed = assess(tiny.colorizer, view, list(drawn.labels.numpy()))
    np.testing.assert_allclose(assessed.mean, drawn.probabilities.mean(0).numpy(), atol=1e-6)


def assessment_of(probabilities, level=100):
    """Of a photograph of 16 x 32 pixels, with the same {label: probability} in every cell."""
    view = look(np.full((16, 32, 3), level, np.uint8), fit="stretch", low=8, high=8)
    mean = np.zeros((8, 8, 512), np.float32)
    for label, probability in probabilities.items():
        mean[..., label] = probability
    return Assessment(view, np.zeros((1, 8, 8), np.float32), mean)


def test_entropy_is_in_bits():
    assert assessment_of({5: 1.0}).entropy == pytest.approx(np.zeros((8, 8)), abs=1e-6)
    assert assessment_of({5: 0.5, 9: 0.25, 300: 0.25}).entropy == pytest.approx(np.full((8, 8), 1.5), abs=1e-5)


def test_plausible_colours_are_distinct_of_the_gray_that_is_there_and_ordered():
    gray = np.full(512, 100)
    allowed = np.flatnonzero(coarse_labels(shades(np.arange(512), gray), gray) == np.arange(512))
    probabilities = dict.fromkeys(allowed.tolist(), 1 / len(allowed))
    found = assessment_of(probabilities).plausible(31, 15, count=100)
    colours = np.array([colour for colour, _ in found], np.uint8)
    shares = [share for _, share in found]
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert shares == sorted(shares, reverse=True)
    ab = to_ab(colours)
    assert np.linalg.norm(ab[:, None] - ab, axis=-1)[~np.eye(len(ab), dtype=bool)].min() >= APART
    assert set(coarse_labels(colours, gray[: len(colours)])) <= set(allowed)
    assert assessment_of(probabilities).plausible(31, 15, count=2) == found[:2]


def test_colours_that_look_alike_count_as_one():
    one, near, far = 28, 37, 32  # at gray 100 the first two are 3.7 apart in a and b, the third is more than 60 away
    found = assessment_of({one: 0.3, near: 0.2, far: 0.4}).plausible(0, 0)
    assert [round(share, 2) for _, share in found] == [0.5, 0.4]


@pytest.mark.parametrize(("x", "y"), [(32, 0), (0, 16), (-1, 0)])
def test_a_pixel_outside_is_refused(x, y):
    with pytest.raises(ValueError, match="outside of what is coloured"):
        assessment_of({5: 1.0}).plausible(x, y)
