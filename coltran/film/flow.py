# SPDX-License-Identifier: Apache-2.0
"""Where the pixels of one frame were in another, how sure that is, and colours carried along.

    places[y, x] = (x, y) + f(x, y)          f: dense inverse search (Kroeger et al., ECCV 2016) on evened-out gray
    sure[y, x]   = exp(-(e / t)^2) exp(-(d / D)^2)

e is how far a pixel lands from where it began, there by f and back by the flow of the opposite direction; t a
tolerance that grows where there is nothing to hold on to; d how far the grays of both places differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from coltran.film.canvas import Canvas

TOLERANCE = 0.8  # pixels of the canvas that there and back may differ
OF_MOTION = 0.03  # of the length of the motion, in addition
PLAIN = 4.0  # levels of texture, below which places may differ by several times that
FIT = 32.0  # levels of evened-out gray
GAIN_FIT = 28.0  # levels of gray itself, once the change of brightness between the two frames is taken out
PEAK = 0.05  # of the phase correlation, below which it says nothing
KNOWN = 0.5  # how sure a carried colour has to be


@dataclass(frozen=True)
class Match:
    """Which place of a source each pixel of a target shows."""

    there: np.ndarray  # float32 [h, w, 2], flow from the target to the source, (x, y)
    back: np.ndarray  # float32 [h, w, 2], from the source to the target
    sure: np.ndarray  # float32 [h, w], 0 .. 1

    @property
    def share(self) -> float:
        """Of the target that is seen in the source."""
        return float((self.sure > KNOWN).mean())


def match(source: Canvas, target: Canvas, there: np.ndarray, back: np.ndarray) -> Match:
    """Finds a target's pixels in a source.

    Args:
        source, target: canvases of the same size.
        there, back: flows to start from, as of `Match`.
    """
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    search.setFinestScale(1)  # as the medium preset; else the flow errs half as much again
    there = search.calc(target.flat, source.flat, there.copy())
    back = search.calc(source.flat, target.flat, back.copy())
    return Match(there, back, _sureness(source, target, there, back))


def shifted(source: Canvas, target: Canvas) -> Match:
    """A match that moves the whole frame, by the peak of the phase correlation; not at all where there is none."""
    height, width = target.gray.shape
    size = (width // 2, height // 2)
    own, other = (cv2.resize(one.flat, size).astype(np.float32) for one in (target, source))
    shift, response = cv2.phaseCorrelate(own, other, cv2.createHanningWindow(size, cv2.CV_32F))
    found = identity(height, width)
    if response < PEAK:
        return found
    flow = found.there + 2 * np.array(shift, np.float32)
    return Match(flow, -flow, found.sure)


def _sureness(source: Canvas, target: Canvas, there: np.ndarray, back: np.ndarray) -> np.ndarray:
    height, width = there.shape[:2]
    places = there + grid(height, width)
    astray, motion = _length(there + look_up(back, places)), _length(there)
    tolerance = (TOLERANCE + OF_MOTION * motion) * (1 + 4 * np.exp(-target.texture / PLAIN))
    seen, own = look_up(source.soft, places), target.soft
    medians = [max(1.0, float(np.median(one[::4, ::4, 1]))) for one in (own, seen)]
    gain = min(5.0, max(0.2, medians[0] / medians[1]))
    even, level = own[..., 0] - seen[..., 0], own[..., 1] - gain * seen[..., 1]
    fit = (even / FIT) ** 2 + (level / (GAIN_FIT * max(gain, 0.3))) ** 2
    sure = np.exp(-((astray / tolerance) ** 2) - fit)
    x, y = places[..., 0], places[..., 1]
    sure[(x < -0.5) | (y < -0.5) | (x > width - 0.5) | (y > height - 0.5)] = 0
    return cv2.erode(sure, np.ones((3, 3), np.uint8))


def _length(vectors: np.ndarray) -> np.ndarray:
    return cv2.magnitude(vectors[..., 0], vectors[..., 1])


@cache
def grid(height: int, width: int) -> np.ndarray:
    """The place of each pixel: float32 [height, width, 2], (x, y), not to be written to."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    places = np.stack([x, y], -1)
    places.flags.writeable = False
    return places


def look_up(image: np.ndarray, places: np.ndarray, *, cubic: bool = False) -> np.ndarray:
    """The values of an image [h, w] or [h, w, c] at places [h', w', 2]; beyond its edges those of the edges."""
    how = cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR
    return cv2.remap(image, places[..., 0], places[..., 1], how, borderMode=cv2.BORDER_REPLICATE)


def carry(colors: np.ndarray, found: Match) -> np.ndarray:
    """The colours of a source, [h, w, c], on the target's pixels."""
    return look_up(colors, found.there + grid(*found.there.shape[:2]), cubic=True)


def identity(height: int, width: int) -> Match:
    """Of a frame in itself."""
    still = np.zeros((height, width, 2), np.float32)
    return Match(still, still, np.ones((height, width), np.float32))


def join(first: Match, second: Match) -> tuple[np.ndarray, np.ndarray]:
    """Flows to start from between the source of `first` and the target of `second`, by way of what they share."""
    size = grid(*first.there.shape[:2])
    there = second.there + look_up(first.there, second.there + size)
    back = first.back + look_up(second.back, first.back + size)
    return there, back


def fill(colors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Colours [h, w, c] everywhere: where weights [h, w] are small, of what is known around, ever farther off.

    Known values are averaged down to ever smaller images until they cover everything, and brought back up.
    """
    if min(weights.shape) <= 2:
        total = float(weights.sum())
        mean = (colors * weights[..., None]).sum((0, 1)) / max(total, 1e-6)
        around = np.broadcast_to(mean, colors.shape)
    else:
        size = ((weights.shape[1] + 1) // 2, (weights.shape[0] + 1) // 2)
        down = cv2.resize(colors * weights[..., None], size, interpolation=cv2.INTER_AREA)
        share = cv2.resize(weights, size, interpolation=cv2.INTER_AREA)
        smaller = fill(down / np.maximum(share, 1e-6)[..., None], np.minimum(1, 4 * share))  # a quarter known is enough
        around = cv2.resize(smaller, weights.shape[::-1], interpolation=cv2.INTER_LINEAR)
    share = np.clip(weights, 0, 1)[..., None]
    return (colors * share + around * (1 - share)).astype(np.float32)
