# SPDX-License-Identifier: Apache-2.0
"""In which colour space, and by which enlargement, do small colours come closest to the photograph's own?

    python bench/chroma.py ../shared/photos/valid --side 64 --limit 100
    python bench/chroma.py ../shared/photos/valid --limit 16 --networks

Each photograph's true colours are area-averaged to a square of --side pixels, enlarged, and put on its luminance; the
figure is the mean distance to the truth in CIELAB's a and b. With --networks the colours are those that the networks in
the package draw (seed 0, top-p 0.9), a column for each stage. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

import coltran
from coltran.image import area_resize, list_photos, load_photo
from coltran.photo.overlay import shrink
from coltran.photo.recolour import luminance, recolour, without_specks

Space = tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]

# Oklab, by Ottosson (2020): linear RGB to LMS, and the cube roots of that to Lab.
TO_LMS = np.array(
    [[0.4122215, 0.5363325, 0.0514460], [0.2119035, 0.6806995, 0.1073970], [0.0883025, 0.2817188, 0.6299787]]
)
TO_OKLAB = np.array(
    [[0.2104543, 0.7936178, -0.0040720], [1.9779985, -2.4285922, 0.4505937], [0.0259040, 0.7827718, -0.8086758]]
)


def _to_oklab(rgb: np.ndarray) -> np.ndarray:
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return (np.cbrt(linear @ TO_LMS.T) @ TO_OKLAB.T).astype(np.float32)


def _from_oklab(lab: np.ndarray) -> np.ndarray:
    linear = (lab @ np.linalg.inv(TO_OKLAB).T) ** 3 @ np.linalg.inv(TO_LMS).T
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def _cv(there: int, back: int) -> Space:
    return (
        lambda rgb: cv2.cvtColor(rgb.astype(np.float32), there),
        lambda x: cv2.cvtColor(x.astype(np.float32), back).clip(0, 1),
    )


SPACES: dict[str, Space] = {
    "YCbCr": _cv(cv2.COLOR_RGB2YCrCb, cv2.COLOR_YCrCb2RGB),
    "CIELAB": _cv(cv2.COLOR_RGB2LAB, cv2.COLOR_LAB2RGB),
    "Oklab": (_to_oklab, _from_oklab),
}


def _guided(chroma: np.ndarray, luma: np.ndarray, radius: int = 8, epsilon: float = 1e-3) -> np.ndarray:
    """Cubic, then the guided filter of He et al. (2013) with the photograph's lightness as the guide."""

    def mean(x: np.ndarray) -> np.ndarray:
        return cv2.blur(x, (2 * radius + 1, 2 * radius + 1))

    large = _by(cv2.INTER_CUBIC)(chroma, luma)
    middle = mean(luma)
    slope = (mean(luma[..., None] * large) - middle[..., None] * mean(large)) / (
        mean(luma * luma) - middle**2 + epsilon
    )[..., None]
    return mean(slope) * luma[..., None] + mean(mean(large) - slope * middle[..., None])


def _joint_bilateral(chroma: np.ndarray, luma: np.ndarray, sigma: float = 0.05) -> np.ndarray:
    """Joint bilateral upsampling (Kopf et al., 2007): small pixels weigh by how near and how equally light they are."""
    small = cv2.resize(luma, (chroma.shape[1], chroma.shape[0]), interpolation=cv2.INTER_AREA)
    y, x = ((np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip(luma.shape, small.shape, strict=True))
    total, weights = np.zeros((*luma.shape, chroma.shape[2]), np.float32), np.zeros(luma.shape, np.float32)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            i, j = np.rint(y).astype(int) + down, np.rint(x).astype(int) + right
            near = np.exp(-3 * ((i - y)[:, None] ** 2 + (j - x) ** 2)).astype(np.float32)
            place = np.ix_(i.clip(0, small.shape[0] - 1), j.clip(0, small.shape[1] - 1))
            near *= np.exp(-((luma - small[place]) ** 2) / (2 * sigma**2)) + 1e-6  # none is as light: all count
            total += near[..., None] * chroma[place]
            weights += near
    return total / weights[..., None]


def _by(interpolation: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    return lambda chroma, luma: cv2.resize(chroma, luma.shape[::-1], interpolation=interpolation)


ENLARGEMENTS = {
    "nearest": _by(cv2.INTER_NEAREST),
    "linear": _by(cv2.INTER_LINEAR),
    "cubic": _by(cv2.INTER_CUBIC),
    "Lanczos": _by(cv2.INTER_LANCZOS4),
    "guided": _guided,
    "joint bilateral": _joint_bilateral,
}


def distance(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance in CIELAB's a and b of two images uint8 [H, W, 3]."""
    a, b = (cv2.cvtColor(x.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[..., 1:] for x in (found, truth))
    return float(np.linalg.norm(a - b, axis=-1).mean())


def by_every_way(photo: np.ndarray, small: np.ndarray) -> dict[str, float]:
    """The distance by colour space and enlargement, and by `recolour`, for a photograph and its small colours."""
    found = {"gray": distance(np.repeat(np.rint(luminance(photo))[..., None], 3, -1).astype(np.uint8), photo)}
    for space, (into, back) in SPACES.items():
        lightness, chroma = into(photo / 255)[..., 0], into(small / 255)[..., 1:]
        scale = 100 if space == "CIELAB" else 1
        for name, enlarge in ENLARGEMENTS.items():
            large = enlarge(np.ascontiguousarray(chroma), np.ascontiguousarray(lightness / scale).astype(np.float32))
            rgb = back(np.concatenate((lightness[..., None], large), -1))
            found[f"{space}, {name}"] = distance(np.rint(255 * rgb).astype(np.uint8), photo)
    luma = luminance(photo)
    return found | {
        "recolour": distance(recolour(luma, small), photo),
        "recolour, without specks": distance(recolour(luma, without_specks(small)), photo),
    }


def drawn(pipeline: coltran.Pipeline, photo: np.ndarray) -> dict[str, np.ndarray]:
    """The colours of each stage of the networks, as they draw them: {stage: uint8 [h, w, 3]}."""
    return {stage: pipeline(photo, stage=stage, size="network", top_p=0.9).images[0] for stage in pipeline.stages}


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder of photographs")
    parser.add_argument("--side", type=int, default=64, help="of the square of true colours (64)")
    parser.add_argument("--limit", type=int, default=100, help="photographs, evenly picked (100)")
    parser.add_argument("--longest", type=int, default=1280, help="side to which larger photographs shrink (1280)")
    parser.add_argument("--networks", action="store_true", help="colours drawn by the networks in the package")
    options = parser.parse_args()
    paths = list_photos([options.photos])
    chosen = paths[:: max(1, len(paths) // options.limit)][: options.limit]
    photos = [shrink(load_photo(path), options.longest) for path in chosen]
    pipeline = coltran.from_pretrained() if options.networks else None
    found: dict[str, list[dict[str, float]]] = {}  # of each column a row a photograph
    for photo in photos:
        true = {f"from {options.side}": area_resize(photo, options.side)}
        for column, small in (true if pipeline is None else drawn(pipeline, photo)).items():
            found.setdefault(column, []).append(by_every_way(photo, small))
    means = {
        column: {name: round(float(np.mean([row[name] for row in rows])), 3) for name in rows[0]}
        for column, rows in found.items()
    }
    print(f"{'':24}", *(f"{column:>9}" for column in means))
    for name in next(iter(means.values())):
        print(f"{name:24}", *(f"{of[name]:9.3f}" for of in means.values()))
    print(json.dumps({"photographs": len(photos), "ab": means}))


if __name__ == "__main__":
    main()
