# SPDX-License-Identifier: Apache-2.0
"""The frames that are coloured, from what is known of their colours and by the networks where nothing is.

An anchor takes its colours, in this order, from the frames of the shot that it is found in by flow; from frames of a
memory that show the same thing at another place, found by their features; and, where neither is sure, from a drawing
of the networks in which all that is known is imposed. What is drawn is moved to what it borders on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from coltran.film.canvas import Canvas
from coltran.film.flow import KNOWN, Match, carry, fill, grid, match
from coltran.photo.hints import Hint
from coltran.photo.recolor import LUMA
from coltran.pipeline import Pipeline

CELL = 0.6  # of a cell has to be known for its colour to be imposed on the drawing
FEATURES = 10  # that have to agree on a place for a match of features
SIZES = 4.0  # times as large or small as in the other frame, at most
REACH = 24.0  # pixels over which a drawing is moved to what it borders on


@dataclass(frozen=True)
class Anchor:
    """A frame whose colours are known."""

    canvas: Canvas
    colors: np.ndarray  # float32 [h, w, 4], see `coltran.film.canvas`
    trust: np.ndarray  # float32 [h, w], 0 where a colour is but that of what is around


def colors_of(rgb: np.ndarray) -> np.ndarray:
    """Colours as they are carried, float32 [h, w, 4], of an image uint8 [h, w, 3]."""
    image = rgb.astype(np.float32)
    luma = image @ LUMA
    return np.dstack([image - luma[..., None], luma])


def impose(canvas: Canvas, colors: np.ndarray, sure: np.ndarray, cells: int) -> list[Hint]:
    """Hints for a square photograph of `cells` x `cells` pixels: the known colours of a frame.

    Args:
        canvas, colors, sure: the frame, the colours carried to it [h, w, 4] and how sure they are [h, w].
        cells: the colorizer's pixels a side.
    """
    known = (sure > KNOWN).astype(np.float32)
    whole = np.dstack([colors[..., :3] * known[..., None], known])
    small = cv2.resize(whole, (cells, cells), interpolation=cv2.INTER_AREA)
    gray = cv2.resize(canvas.gray, (cells, cells), interpolation=cv2.INTER_AREA).astype(np.float32)
    rgb = np.clip(np.rint(gray[..., None] + small[..., :3] / np.maximum(small[..., 3:], 1e-6)), 0, 255).astype(int)
    rows, columns = np.nonzero(small[..., 3] >= CELL)
    places = zip(columns.tolist(), rows.tolist(), map(tuple, rgb[rows, columns].tolist()), strict=True)
    return [Hint(x, y, color) for x, y, color in places]


def draw(pipeline: Pipeline, canvas: Canvas, colors: np.ndarray, sure: np.ndarray, **options: Any) -> np.ndarray:
    """A drawing of a frame in which what is known is imposed, unless its mode draws nothing: float32 [h, w, 4].

    Args:
        pipeline: the networks.
        canvas, colors, sure: as of `impose`; nothing is known where `sure` is 0.
        options: of `Pipeline.colorize`.
    """
    side = pipeline.high
    gray = cv2.resize(canvas.gray, (side, side), interpolation=cv2.INTER_AREA)
    scale = side // pipeline.low
    hints = [
        Hint(x * scale + scale // 2, y * scale + scale // 2, color)
        for x, y, color, _ in impose(canvas, colors, sure, pipeline.low)
        if options.get("mode") != "expected"
    ]
    fixed = {"samples": 1} if hints else {"particles": 1}
    result = pipeline(gray, hints=hints, border="keep", best=1, **options | fixed)
    drawn = cv2.resize(colors_of(result.images[0]), canvas.gray.shape[::-1], interpolation=cv2.INTER_CUBIC)
    drawn[..., 3] = canvas.gray
    return drawn


def merge(colors: np.ndarray, sure: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Known colours and a drawing of the rest, [h, w, 4] each, without an edge between them."""
    weight = np.clip((sure - KNOWN / 2) / KNOWN, 0, 1)
    known = (sure > KNOWN).astype(np.uint8)
    if not known.any():
        return drawn
    distance = cv2.distanceTransform(1 - known, cv2.DIST_L2, 3)
    offset = fill(colors[..., :3] - drawn[..., :3], weight) * np.exp(-distance / REACH)[..., None]
    moved = drawn.copy()
    moved[..., :3] += offset
    return (colors * weight[..., None] + moved * (1 - weight[..., None])).astype(np.float32)


def take(sources: Iterable[tuple[Anchor, Match]], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """What sources say of a frame, of each pixel the first that is sure of it.

    Returns:
        colors, float32 [h, w, 4], and how sure they are, float32 [h, w].
    """
    colors, sure = np.zeros((*size, 4), np.float32), np.zeros(size, np.float32)
    for anchor, found in sources:
        weight = found.sure * carry(anchor.trust, found) * np.clip(1 - sure / KNOWN, 0, 1)
        share = weight / np.maximum(weight + sure, 1e-6)
        colors += (carry(anchor.colors, found) - colors) * share[..., None]
        sure = np.maximum(sure, weight)
    return colors, sure


def find(memory: Sequence[Anchor], canvas: Canvas, unknown: np.ndarray) -> list[tuple[Anchor, Match]]:
    """Remembered frames that show what is unknown of a frame, bool [h, w], at whatever place; the surest first."""
    target = _features(canvas, unknown)
    found = []
    for anchor in memory:
        start = _place(_features(anchor.canvas), target, canvas.gray.shape)
        if start is not None:
            found.append((anchor, match(anchor.canvas, canvas, *start)))
    return sorted(found, key=lambda pair: -float((pair[1].sure * unknown).sum()))


def _features(canvas: Canvas, where: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Places [n, 2] and descriptors [n, 128] (Lowe, IJCV 2004) of a frame's features, of a part of it."""
    mask = None if where is None else where.astype(np.uint8) * 255
    points, descriptors = cv2.SIFT.create(600, contrastThreshold=0.02).detectAndCompute(canvas.flat, mask)
    if descriptors is None:
        return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32)
    return np.array([point.pt for point in points], np.float32), descriptors


def _place(
    source: tuple[np.ndarray, np.ndarray], target: tuple[np.ndarray, np.ndarray], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Flows (there, back) by which most features of a target lie in a source, of one size; None where too few do."""
    if min(len(source[0]), len(target[0])) < FEATURES:
        return None
    pairs = cv2.BFMatcher().knnMatch(target[1], source[1], k=2)
    good = [(first.queryIdx, first.trainIdx) for first, second in pairs if first.distance < 0.75 * second.distance]
    if len(good) < FEATURES:
        return None
    own, other = (
        points[list(which)] for points, which in zip((target[0], source[0]), zip(*good, strict=True), strict=True)
    )
    cv2.setRNGSeed(0)
    moved, inside = cv2.estimateAffinePartial2D(own, other, ransacReprojThreshold=3)
    if moved is None or int(inside.sum()) < FEATURES or not 1 / SIZES < np.hypot(*moved[:, 0]) < SIZES:
        return None
    places = grid(*size)
    there = cv2.transform(places, moved).astype(np.float32) - places
    back = cv2.transform(places, cv2.invertAffineTransform(moved)).astype(np.float32) - places
    return there, back
