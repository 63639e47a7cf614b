# SPDX-License-Identifier: Apache-2.0
"""Where to ask a person for a colour: where the answer would say most about all the others.

N colourings of one photograph are cut into blocks, and each block is given one of seven colours: gray, or one of six
hues. Over the colourings, the answer at block i takes away I(i; j) = H(i) + H(j) - H(i, j) bits of the entropy of block
j, in the mean over the answers; the sum over j is what asking at i is worth. So few colourings agree by chance as well:
what they do when those of one block are shuffled is taken off. After the first place, the same is measured among the
colourings that give the same answer there, and so on.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from coltran.image import labels_to_colors
from coltran.photo.lab import to_ab
from coltran.photo.view import View

HUES = 6
PALE = 10.0  # chroma below which a colour counts as gray
BLOCKS = 256  # of a strip, about; 4 x 4 cells each where it is one square of 64
SHUFFLES = 4
FEWEST = 4  # samples that tell more than chance


class Place(NamedTuple):
    """A pixel of the photograph where a hint would help."""

    x: int
    y: int
    bits: float  # by how much the answer is expected to reduce the entropy of all blocks, in sum: an estimate


def ask(labels: np.ndarray, view: View, count: int = 3) -> list[Place]:
    """The best places to ask about, best first, each chosen given the answers at those before it.

    Args:
        labels: int64 [N, h, w], colourings that were drawn for the view's photograph; from some 16 on.
        view: of the photograph.
        count: places; no more than there are blocks.
    """
    side = max(1, round((labels[0].size / BLOCKS) ** 0.5))
    classes = block_colors(labels, side)
    rows, columns = classes.shape[1:]
    height, width = labels.shape[1:]
    groups = np.zeros(len(labels), np.int64)
    found: list[Place] = []
    taken: list[int] = []
    for _ in range(min(count, rows * columns)):
        worth = expected_reduction(classes.reshape(len(labels), -1), groups)
        worth[taken] = -np.inf
        best = int(worth.argmax())
        taken.append(best)
        row, column = divmod(best, columns)
        x = view.left + int((min(column * side + side / 2, width - 0.5)) * view.photo.shape[1] / width)
        y = view.top + int((min(row * side + side / 2, height - 0.5)) * view.photo.shape[0] / height)
        found.append(Place(x, y, float(worth[best])))
        groups = groups * (HUES + 1) + classes[:, row, column]
    return found


def block_colors(labels: np.ndarray, side: int) -> np.ndarray:
    """Labels [N, h, w] as classes of blocks of `side` cells: 0 gray, 1 .. 6 the hues; int64 [N, rows, columns]."""
    height, width = -(-labels.shape[1] // side), -(-labels.shape[2] // side)
    ab = np.stack(
        [cv2.resize(one, (width, height), interpolation=cv2.INTER_AREA) for one in to_ab(labels_to_colors(labels))]
    )
    hue = np.arctan2(ab[..., 1], ab[..., 0]) / (2 * np.pi) * HUES
    return np.where(np.linalg.norm(ab, axis=-1) < PALE, 0, 1 + np.rint(hue).astype(np.int64) % HUES)


def expected_reduction(classes: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """By how many bits the answer at each place is expected to reduce the entropy of all, beyond chance: [P].

    Args:
        classes: int [N, P] in 0 .. 6, of N samples at P places.
        groups: int [N]; only samples of the same group are compared.
    """
    rng = np.random.default_rng(0)
    worth = np.zeros(classes.shape[1])
    for group, count in zip(*np.unique(groups, return_counts=True), strict=True):
        if count < FEWEST:
            continue
        ours = np.eye(HUES + 1, dtype=np.float32)[classes[groups == group]]  # [n, P, 7]
        shuffled = np.mean([_information(rng.permutation(ours), ours) for _ in range(SHUFFLES)], axis=0)
        worth += count / len(classes) * (_information(ours, ours) - shuffled)
    return worth


def _information(asked: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How many bits each place of asked [n, P, 7] tells of all places of others [n, P, 7], in sum: [P]."""
    count, places, kinds = asked.shape
    share = np.arange(count + 1) / count
    terms = (-share * np.log2(np.maximum(share, 1e-9))).astype(np.float32)  # of an entropy, for each count
    joint = (asked.reshape(count, -1).T @ others.reshape(count, -1)).astype(np.int32)
    entropy = terms[joint].reshape(places, kinds, -1).sum((1, 2))  # in sum over the others
    own, theirs = (terms[one.sum(0).astype(np.int32)].sum(1) for one in (asked, others))
    return places * own + theirs.sum() - entropy
