# SPDX-License-Identifier: Apache-2.0
"""How far hints reach, and that what is drawn there follows them."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from coltran.image import labels_to_colors
from coltran.photo.hints import Hint
from coltran.photo.lab import to_ab
from coltran.pipeline import Pipeline
from coltran.sampling.reach import END, FAR, STEP, hint_term, reach
from tests.tiny import LOW, random_guide, tiny_pipeline

RED, BLUE = 0o700, 0o007


def by_dijkstra(hinted: np.ndarray, gray: np.ndarray) -> np.ndarray:
    distance = np.where(hinted >= 0, 0.0, np.inf)
    heap = [(0.0, *place) for place in np.argwhere(hinted >= 0).tolist()]
    while heap:
        far, y, x = heapq.heappop(heap)
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= v < gray.shape[0] and 0 <= u < gray.shape[1]:
                to = far + 1 / FAR + abs(int(gray[v, u]) - int(gray[y, x])) / STEP
                if to < distance[v, u]:
                    distance[v, u] = to
                    heapq.heappush(heap, (to, v, u))
    return distance


def hints_at(shape: tuple[int, int], *places: tuple[int, int, int]) -> np.ndarray:
    hinted = np.full(shape, -1)
    for y, x, label in places:
        hinted[y, x] = label
    return hinted


def test_the_strength_falls_with_the_shortest_path():
    random = np.random.default_rng(0)
    for shape in ((9, 13), (1, 7), (20, 5)):
        gray = random.integers(90, 110, shape, dtype=np.uint8)
        hinted = hints_at(shape, (0, 2, RED), (shape[0] - 1, shape[1] - 1, BLUE))
        distance = by_dijkstra(hinted, gray)
        strength, label = reach(hinted, gray)
        np.testing.assert_allclose(strength, np.where(distance < END, np.exp(-(distance**2)), 0), atol=1e-6)
        assert ((label >= 0) == (distance < END)).all()


def test_an_edge_ends_a_hint():
    gray = np.full((8, 8), 60, np.uint8)
    gray[:, 4:] = 160
    strength, label = reach(hints_at((8, 8), (3, 1, RED)), gray)
    assert (strength[:, :4] > 0.4).all() and (strength[:, 4:] == 0).all()
    assert (label[:, :4] == RED).all() and (label[:, 4:] == -1).all()


def test_each_cell_is_pulled_to_the_nearest_hint_alone():
    hinted = hints_at((3, 40), (1, 0, RED), (1, 39, BLUE))
    term = hint_term(hinted, np.full((3, 40), 90, np.uint8)).numpy()
    assert term[1, 2].argmax() == RED and term[1, 37].argmax() == BLUE
    assert term.max() == 0 and term[1, 2, BLUE] < -6


def test_without_hints_nothing_is_pulled():
    assert not hint_term(np.full((4, 4), -1), np.zeros((4, 4), np.uint8)).any()


@pytest.mark.parametrize("with_guide", [True, False])
def test_what_is_drawn_follows_a_hint_over_its_area(with_guide):
    tiny = tiny_pipeline()
    guide = random_guide(LOW) if with_guide else None
    pipeline = Pipeline(tiny.colorizer, tiny.color_upsampler, tiny.spatial_upsampler, guide)
    photo = np.full((32, 32), 90, np.uint8)
    blue = to_ab(np.array([20, 60, 230], np.uint8))

    def far(**options: bool) -> float:
        found = pipeline(photo, hints=[Hint(28, 28, (20, 60, 230))], samples=4, stage="coarse", **options)
        return float(np.linalg.norm(to_ab(labels_to_colors(np.stack(found.labels))) - blue, axis=-1).mean())

    assert far(reach=True) < 0.6 * far()


def test_photographs_without_hints_stay_as_they_are_beside_one_that_has_some():
    tiny = tiny_pipeline()
    photos = [np.random.default_rng(n).integers(0, 256, (20, 20), dtype=np.uint8) for n in range(2)]
    found = tiny.colorize(photos, stage="coarse", reach=True)
    plain = tiny.colorize(photos, stage="coarse")
    assert all((a.labels[0] == b.labels[0]).all() for a, b in zip(found, plain, strict=True))
