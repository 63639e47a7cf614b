# SPDX-License-Identifier: Apache-2.0
"""Films as folders of numbered frames."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from coltran.errors import UserError
from coltran.files import check_output
from coltran.film.canvas import Canvas, canvas_of, canvas_size
from coltran.image import PHOTO_SUFFIXES, PhotoError
from coltran.photo import files
from coltran.photo.recolor import luminance, recolor


@dataclass(frozen=True)
class Still:
    """A frame that is a file."""

    path: Path
    photo: files.Photograph
    luma: np.ndarray  # float32 [H, W] in 0 .. 255


class Target:
    """A folder of frames, in the order of the numbers in their names, and the folder of them in colour.

    Args:
        path: the first.
        output: the second.

    Raises:
        UserError: there are no frames.
    """

    def __init__(self, path: Path, output: Path) -> None:
        found = [one for one in path.iterdir() if one.suffix.lower() in PHOTO_SUFFIXES and one.is_file()]
        if not found:
            raise UserError(f"The folder {path} holds no frames.")
        self.paths, self.output = sorted(found, key=natural), output
        self.problems: list[str] = []

    @property
    def frames(self) -> int:
        """How many there are."""
        return len(self.paths)

    def stamp(self) -> list[Any]:
        """What changes when the frames do."""
        return [[path.name, path.stat().st_mtime_ns] for path in self.paths]

    def check(self, *, overwrite: bool) -> None:
        """Raises UserError where the output folder cannot be written, or holds files that are not ours."""
        check_output(self.output)
        names = {path.stem for path in self.paths}
        there = [one for one in self.output.iterdir() if one.stem in names] if self.output.is_dir() else []
        theirs = [one for one in there if not overwrite and files.said_by_us(one) is None]
        if theirs:
            raise UserError(f"{theirs[0]} is no result of ours, and would be replaced: choose another folder.")

    def frame_at(self, when: float) -> np.ndarray | None:
        """The frame of a number, 0 the first."""
        return files.read(self.paths[int(when)]).pixels if when < len(self.paths) else None

    def pictures(self, skip: int) -> Iterator[Still]:
        """The frames after the first `skip`; those that cannot be read, or have another size, are left out."""
        self.output.mkdir(parents=True, exist_ok=True)
        size: tuple[int, ...] | None = None
        number = 0
        for path in self.paths:
            try:
                photo = files.read(path)
            except PhotoError as error:
                self.problems.append(str(error))
                continue
            size = size or photo.pixels.shape[:2]
            if photo.pixels.shape[:2] != size:
                (height, width), (rows, columns) = photo.pixels.shape[:2], size
                sizes = f"{width} x {height} pixels, the frames before it {columns} x {rows}"
                self.problems.append(f"{path} has {sizes}: it is left out.")
                continue
            number += 1
            if number > skip:
                yield Still(path, photo, luminance(photo.pixels))

    def canvas(self, picture: Still) -> Canvas:
        """A frame's canvas."""
        return canvas_of(picture.luma, canvas_size(*picture.luma.shape))

    def begin(self, path: Path) -> None:
        """Frames are where they belong at once."""

    def write(self, picture: Still, chroma: np.ndarray) -> None:
        """Writes a frame in its own format, whole or not at all."""
        photo, suffix = picture.photo, files.FORMATS[picture.photo.format]
        same = Image.registered_extensions().get(picture.path.suffix.lower()) == photo.format.upper()
        path = self.output / (picture.path.name if same else f"{picture.path.stem}{suffix}")
        pixels = recolor(picture.luma, chroma, photo.pixels.dtype.type)
        files.write(
            pixels,
            path,
            format=photo.format,
            quality=95,
            kept=photo.metadata,
            alpha=photo.alpha,
            description=files.OURS,
        )

    def end(self) -> None:
        """Every frame is whole."""

    def finish(self, parts: list[Path], whole: bool) -> None:
        """There is nothing to put together."""


def natural(path: Path) -> list[tuple[int, str]]:
    """What sorts names by the numbers in them: f2 before f10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
