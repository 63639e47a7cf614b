# SPDX-License-Identifier: Apache-2.0
"""The order of colourings: by the guide's colours or by likelihood."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coltran.image import labels_to_colors
from coltran.photo.lab import to_ab
from coltran.pipeline import Pipeline
from coltran.sampling.guidance import guide_grays, log_probabilities, mean_colors
from coltran.sampling.ranking import badness, check_order, ranking
from tests.tiny import guided_pipeline


@pytest.fixture(scope="module")
def guided() -> Pipeline:
    return guided_pipeline()


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (23, 31), dtype=np.uint8)


def test_what_is_nearer_to_the_expected_colours_comes_first():
    labels = torch.tensor([[[0o700, 0o700]], [[0o333, 0o333]], [[0o333, 0o700]]])
    gray = np.full((1, 2, 3), 112, np.uint8)
    found = badness(labels, torch.tensor([-1.0, -3.0, -2.0]), gray)
    red = np.linalg.norm(to_ab(np.array([240, 16, 16], np.uint8)))
    assert found == pytest.approx([red, 0, red / 2], abs=0.3)
    assert ranking(found) == [1, 2, 0]


def test_without_expected_colours_the_likelier_comes_first_and_of_equals_the_first():
    log_prob = torch.tensor([-2.0, -1.0, -2.0])
    assert ranking(badness(torch.zeros(3, 1, 1, dtype=torch.int64), log_prob, None)) == [1, 0, 2]


def test_colourings_are_ordered_by_the_guides_mean_by_default(guided, photo):
    found = guided(photo, samples=6)
    view = guided.look(photo)
    mean = to_ab(mean_colors(log_probabilities(guided.guide, guide_grays(guided.guide, view)), view))
    drawn = to_ab(labels_to_colors(np.stack(found.labels)) + np.uint8(16))
    far = np.linalg.norm(drawn - mean, axis=-1).mean((1, 2))
    np.testing.assert_allclose(found.badness, far, rtol=1e-5)
    assert found.ranking() == np.argsort(far, kind="stable").tolist()


def test_best_takes_the_first_of_either_order(guided, photo):
    for order in ("guide", "likelihood"):
        every = guided(photo, samples=6, order=order)
        best = guided(photo, samples=6, best=2, order=order)
        assert best.samples == every.ranking()[:2]
        assert best.badness == [every.badness[s] for s in best.samples]
    assert every.ranking() == sorted(range(6), key=lambda s: -every.guided_log_prob[s])


def test_the_order_needs_no_guidance_where_it_is_asked_for(guided, photo):
    plain, ordered = guided(photo, samples=2, guidance=0), guided(photo, samples=2, guidance=0, order="guide")
    assert all(map(np.array_equal, plain.labels, ordered.labels))
    assert plain.ranking() == [int(np.argmax(plain.log_prob)), int(np.argmin(plain.log_prob))]
    assert ordered.badness != plain.badness


def test_the_default_goes_by_what_steers(guided):
    assert check_order(None, guided.guide, 0.7) == "guide"
    assert check_order(None, guided.guide, 0.0) == check_order(None, None, 0.0) == "likelihood"


@pytest.mark.parametrize(("order", "reason"), [("guide", "none"), ("beauty", "got 'beauty'")])
def test_an_order_that_cannot_be_is_refused(order, reason):
    with pytest.raises(ValueError, match=reason):
        check_order(order, None, 0.0)
