# SPDX-License-Identifier: Apache-2.0
"""Do the frames of a film keep their colours?

    python bench/film.py ../shared/photos/wide --clips 2

Of photographs it makes clips whose motion is known: a pan, a zoom, two layers that move apart, an object that passes, a
cut, a fade and the flicker and scratches of an old film. In levels of chroma, RGB - Y, the mean over channels:

flicker  how far a frame's chroma is from that of the frame before at the place where the same thing was
alone    the same of frames that are coloured each on its own, with one seed, as photographs
error    how far the chroma is from the photograph's, of the first frame and of all
cut      how far the frames after a cut are from those of a film that begins there: 0 where nothing is carried over it

Prints a line for each clip and one JSON line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout, in place of bench/

from bench import machine
from coltran import cli
from coltran.console import speak
from coltran.film.film import Film
from coltran.film.flow import look_up
from coltran.image import list_photos, load_photo
from coltran.loading import from_pretrained
from coltran.photo.recolor import luminance
from coltran.pipeline import Pipeline

HEIGHT, WIDTH, FRAMES = 240, 320, 25
KINDS = ("pan", "zoom", "parallax", "object", "cut", "fade", "old film")
ALONE = 3  # frames in the middle that are coloured each on its own as well


@dataclass(frozen=True)
class Layer:
    """A photograph that moves; one that is cut out to an ellipse where it is not the background."""

    photo: np.ndarray  # uint8 [H, W, 3]
    moves: list[np.ndarray]  # [2, 3] a frame: from pixels of the frame to those of the photograph
    cut_out: bool = False

    def look_up(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """What a frame shows of it, float32 [HEIGHT, WIDTH, 3], and where it is, bool [HEIGHT, WIDTH]."""
        places = cv2.transform(_grid(), self.moves[number])
        pixels = look_up(self.photo.astype(np.float32), places)
        height, width = self.photo.shape[:2]
        off = (places - [width / 2, height / 2]) / [width / 2, height / 2]
        return pixels, (off**2).sum(-1) < 0.5 if self.cut_out else np.ones((HEIGHT, WIDTH), bool)


@dataclass(frozen=True)
class Clip:
    """Frames whose motion is known."""

    frames: list[np.ndarray]  # uint8 [HEIGHT, WIDTH, 3], as they were
    grays: list[np.ndarray]  # uint8 [HEIGHT, WIDTH], as they are to be coloured
    before: list[np.ndarray]  # float32 [HEIGHT, WIDTH, 2], where each pixel was in the frame before
    seen: list[np.ndarray]  # bool [HEIGHT, WIDTH], whether it was in view there


def _grid() -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    return np.stack([x, y], -1)


def _moves(photo: np.ndarray, dx: float, dy: float = 0, zoom: float = 1, side: float = 0.6) -> list[np.ndarray]:
    """A view of a share of a photograph that moves so many pixels a frame and grows by `zoom` over the clip."""
    height, width = photo.shape[:2]
    scale = side * min(width / WIDTH, height / HEIGHT)
    moves = []
    for n in range(FRAMES):
        one = scale / zoom ** (n / FRAMES)
        middle = np.array([width, height]) / 2 + (n - FRAMES / 2) * scale * np.array([dx, dy])
        corner = middle - one * np.array([WIDTH, HEIGHT]) / 2
        moves.append(np.array([[one, 0, corner[0]], [0, one, corner[1]]]))
    return moves


def render(layers: Sequence[Layer], gains: np.ndarray, rng: np.random.Generator | None = None) -> Clip:
    """The clip of layers, the last in front, each frame as bright as its gain says; with grain and scratches."""
    frames, grays, owners = [], [], []
    for n in range(FRAMES):
        image, owner = np.zeros((HEIGHT, WIDTH, 3), np.float32), np.zeros((HEIGHT, WIDTH), int)
        for index, layer in enumerate(layers):
            pixels, there = layer.look_up(n)
            image[there], owner[there] = pixels[there], index
        image = np.clip(np.rint(image * gains[n]), 0, 255).astype(np.uint8)
        gray = luminance(image)
        if rng is not None:
            gray += rng.normal(0, 4, gray.shape)
            for x in rng.integers(0, WIDTH, 3):
                gray[:, x] = 230
        frames.append(image)
        grays.append(np.clip(np.rint(gray), 0, 255).astype(np.uint8))
        owners.append(owner)
    before, seen = [np.zeros((HEIGHT, WIDTH, 2), np.float32)], [np.zeros((HEIGHT, WIDTH), bool)]
    for n in range(1, FRAMES):
        places = np.zeros((HEIGHT, WIDTH, 2), np.float32)
        for index, layer in enumerate(layers):
            there = owners[n] == index
            back = cv2.transform(cv2.transform(_grid(), layer.moves[n]), cv2.invertAffineTransform(layer.moves[n - 1]))
            places[there] = back[there]
        x, y = np.rint(places).astype(int).transpose(2, 0, 1)
        inside = (x >= 0) & (x < WIDTH) & (y >= 0) & (y < HEIGHT)
        same = owners[n - 1][np.clip(y, 0, HEIGHT - 1), np.clip(x, 0, WIDTH - 1)] == owners[n]
        before.append(places)
        seen.append(inside & same)
    return Clip(frames, grays, before, seen)


def make(kind: str, photos: Sequence[np.ndarray], seed: int = 0) -> Clip:
    """A clip of a kind of two photographs."""
    rng, one = np.random.default_rng(seed), np.ones(FRAMES)
    first, second = photos
    background = Layer(first, _moves(first, 3))
    if kind == "pan":
        return render([background], one)
    if kind == "zoom":
        return render([Layer(first, _moves(first, 0, zoom=1.5, side=0.9))], one)
    if kind == "parallax":
        return render([Layer(first, _moves(first, 1)), Layer(second, _moves(second, -4, side=1.4), True)], one)
    if kind == "object":
        return render([Layer(first, _moves(first, 0)), Layer(second, _moves(second, -6, 1, side=2.2), True)], one)
    if kind == "fade":
        return render(
            [background], np.clip(np.minimum(np.arange(FRAMES) / 8, (FRAMES - 1 - np.arange(FRAMES)) / 8), 0.02, 1)
        )
    if kind == "old film":
        return render([background], 1 + rng.uniform(-0.15, 0.15, FRAMES), rng)
    halves = [render([Layer(photo, _moves(photo, 3))], one) for photo in photos]
    return Clip(
        *(getattr(halves[0], name) + getattr(halves[1], name) for name in ("frames", "grays", "before", "seen"))
    )


def chroma(image: np.ndarray) -> np.ndarray:
    """RGB - Y: float32 [H, W, 3]."""
    return image - luminance(image)[..., None]


def flicker(clip: Clip, found: Sequence[np.ndarray], numbers: Sequence[int]) -> float:
    """The mean change of chroma along the motion, of frames whose number and the one before are in `numbers`."""
    of = dict(zip(numbers, found, strict=True))
    both = [n for n in numbers if n - 1 in of and clip.seen[n].any()]
    changes = (np.abs(of[n] - look_up(of[n - 1], clip.before[n]))[clip.seen[n]].mean() for n in both)
    return float(np.mean(list(changes)))


def measure(pipeline: Pipeline, kind: str, clip: Clip) -> dict[str, Any]:
    """What the module's docstring lists, of one clip."""
    numbers = list(range(len(clip.grays)))
    images = list(Film(pipeline)(clip.grays))
    found, truth = [chroma(image) for image in images], [chroma(frame) for frame in clip.frames]
    middle = numbers[len(numbers) // 2 - ALONE // 2 :][:ALONE] if kind != "cut" else numbers[3:][:ALONE]
    alone = pipeline.colorize([clip.grays[n] for n in middle], seed=0, top_p=0.9)
    each = [chroma(one.images[0]) for one in alone]
    errors = [float(np.abs(a - b).mean()) for a, b in zip(found, truth, strict=True)]
    clear = [n for n in numbers if clip.frames[n].std() > 20]
    result = {
        "flicker": flicker(clip, found, numbers),
        "alone": flicker(clip, each, middle),
        "true": flicker(clip, truth, numbers),
        "first error": errors[clear[0]],
        "error": float(np.mean([errors[n] for n in clear])),
    }
    if kind == "cut":
        half = len(numbers) // 2
        again = list(Film(pipeline)(clip.grays[half:]))
        result["cut"] = float(max(np.abs(chroma(a) - b).max() for a, b in zip(again, found[half:], strict=True)))
    return {"kind": kind} | {name: round(value, 3) for name, value in result.items()}


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    parser = cli.parser(__doc__)
    parser.add_argument("photos", type=Path, help="folder of photographs to make clips of")
    parser.add_argument("--clips", type=cli.at_least(1), default=1, help="clips of each kind (1)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of clips (all)")
    parser.add_argument("--checkpoint", help="folder of the networks (default: those in the package)")
    options = parser.parse_args(argv)
    speak(quiet=True)
    pipeline = from_pretrained(options.checkpoint)
    photos, found = [load_photo(path) for path in list_photos([options.photos])[: 2 * options.clips]], []
    for number in range(options.clips):
        for kind in options.kinds:
            found.append(measure(pipeline, kind, make(kind, photos[2 * number : 2 * number + 2], number)))
            print("  ".join(f"{name} {value}" for name, value in found[-1].items()), flush=True)
    print(json.dumps({"machine": machine.describe(torch.device("cpu")), "clips": found}))
    return 0


if __name__ == "__main__":
    cli.run(main)
