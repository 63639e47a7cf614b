# SPDX-License-Identifier: Apache-2.0
"""A film from its first frame to its last: read, coloured, written segment by segment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from coltran.film.canvas import Canvas
from coltran.film.film import Film
from coltran.film.resume import Parts

SEGMENT = 240  # frames, after which the next anchor ends a segment


class Target(Protocol):
    """What is read and what is written: a film (`coltran.film.streams`) or a folder (`coltran.film.folders`)."""

    output: Path
    problems: list[str]  # sentences about what could not be done

    @property
    def frames(self) -> int | None:
        """About how many there are."""

    def stamp(self) -> list[Any]:
        """What changes when the source does."""

    def check(self, *, overwrite: bool) -> None:
        """Raises UserError where the output cannot be written, or holds what is not to be replaced."""

    def frame_at(self, when: float) -> np.ndarray | None:
        """The frame at a time in seconds, or of a number, None where there is none: uint8 [H, W, 3], uint16 [H, W]."""

    def pictures(self, skip: int) -> Iterator[Any]:
        """The frames after the first `skip`."""

    def canvas(self, picture: Any) -> Canvas:
        """The canvas of one of them."""

    def begin(self, path: Path) -> None:
        """Pictures go there from now on."""

    def write(self, picture: Any, chroma: np.ndarray) -> None:
        """Writes a picture in colour."""

    def end(self) -> None:
        """Makes what was written whole."""

    def finish(self, parts: list[Path], whole: bool) -> None:
        """Makes the output of the parts that were written; not `whole` where frames are missing at the end."""


@dataclass(frozen=True)
class Summary:
    """What became of a film."""

    frames: int
    shots: int
    problems: list[str]


def color_film(
    film: Film, target: Target, order: Mapping[str, Any], *, advance: Callable[[int], None] = lambda done: None
) -> Summary:
    """Colours a film, from where an earlier run of the same order stopped.

    When it is interrupted, what was done becomes the output, and the next run goes on after the last whole segment.

    Args:
        film: with all its options.
        target: where from and where to.
        order: all that the frames depend on (`coltran.film.resume.Parts`).
        advance: called with the number of frames done.

    Raises:
        UserError, OSError: it cannot be read or written.
    """
    parts = Parts(target.output, order)
    state, done, waiting = parts.state(), parts.done, 0
    shot = -1 if state is None else state.shot
    advance(done)

    def finish(whole: bool) -> None:
        if waiting:
            target.end()
        target.finish([*parts.paths, *([parts.following] if waiting else [])], whole)

    try:
        pictures = ((picture, target.canvas(picture)) for picture in target.pictures(done))
        with closing(film.carry(pictures, state)) as frames:
            for found in frames:
                if not waiting:
                    target.begin(parts.following)
                target.write(found.item, found.chroma)
                waiting, shot = waiting + 1, found.shot
                advance(done + waiting)
                if found.state is not None and waiting >= SEGMENT:
                    target.end()
                    parts.end(waiting, found.state)
                    done, waiting = done + waiting, 0
    except KeyboardInterrupt:
        if done or waiting:
            finish(whole=False)
        raise
    if done or waiting:
        finish(whole=True)
    else:
        target.problems.append("There is no frame that can be read.")
    parts.remove()
    return Summary(done + waiting, shot + 1, target.problems)
