# SPDX-License-Identifier: Apache-2.0
"""Frames of a film in, frames in colour out.

import coltran
film = coltran.Film(coltran.from_pretrained(), seed=7)
for frame in film(frames):  # uint8 [H, W, 3] each, in order
    ...

Of each shot, frames some way apart are anchors, whose colours are known whole (`coltran.film.anchors`). Those between
two anchors a and b take theirs from both:

    C_t(p) = (w_a C_a(p_a) + w_b C_b(p_b)) / (w_a + w_b),   w_a = (b - t) sure_a(p),  w_b = (t - a) sure_b(p)

p_a and p_b are the places that pixel p of frame t has in them by flow, and sure says how far that can be believed. What
neither shows takes the colours around it. The luminance is each frame's own.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from typing import Any, Generic, TypeVar

import cv2
import numpy as np

from coltran.film.anchors import Anchor, colors_of, draw, find, merge, take
from coltran.film.canvas import Canvas, as_bright_as, canvas_of, canvas_size
from coltran.film.flow import KNOWN, Match, carry, fill, identity, join, match, shifted
from coltran.film.shots import Frame, find_shots
from coltran.image import area_resize
from coltran.photo.recolor import luminance, recolor
from coltran.pipeline import Pipeline, read_photo

T = TypeVar("T")

LOOK = 24  # frames at the beginning of a shot, one of which is drawn first
CLEAR = 0.5  # of the most contrast among them is enough for the first to be that one
FAINT = 0.3  # of the key's contrast: a frame of less is not searched for motion, and nothing is drawn for it
LEFT = 0.5  # of a frame found in the last anchor: below it the frame becomes one, whenever that was
RENEW = 0.7  # of an anchor found in the key: below it the anchor becomes the key
DRAW = 0.004  # of a frame has to be unknown for a drawing; less takes the colours around it
NARROW = 21  # pixels: what is unknown and no wider, as a scratch, does so too
SEARCH = 0.02  # of a frame has to be unknown for the memory to be searched
REMEMBERED = 8  # keys of a shot


@dataclass(frozen=True)
class State:
    """What the frames after an anchor depend on."""

    shot: int  # 0 the film's first
    number: int  # of the frame in it, 0 the first
    anchor: Anchor
    key: Anchor  # that the shot's colours are taken from as long as most of it is in view
    from_key: Match  # of the anchor in the key
    memory: tuple[Anchor, ...] = ()  # earlier keys of the shot


@dataclass(frozen=True)
class Colored(Generic[T]):
    """A frame and its colours."""

    item: T  # what the caller gave with it
    chroma: np.ndarray  # float32 [h, w, 3], RGB - Y, of the canvas
    shot: int
    state: State | None = None  # what the next frames depend on, where one can go on from here


@dataclass(frozen=True)
class _Interval(Generic[T]):
    """Frames from one anchor to the next, in the order in which their colours are found."""

    first: Anchor
    frames: list[Frame[T]]  # after the first anchor's
    matches: list[Match]  # of each in the first anchor
    state: State  # of the last, which is the next anchor
    backwards: bool = False


class Film:
    """Colours films: the frames of a shot keep their colours, and each has its own luminance.

    Args:
        pipeline: the networks (`coltran.from_pretrained`).
        every: frames from one anchor to the next, at most.
        references: images in colour, uint8 [H, W, 3]; frames that show the same things take their colours.
        seed: 0 .. 2**64 - 1.
        options: of `Pipeline.colorize`, for what is drawn: samples (of a shot's first frame, of which the best is kept;
            4 by default), particles, top_p, temperature.

    Raises:
        ValueError: `every` below 1.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        every: int = 8,
        references: Sequence[np.ndarray] = (),
        seed: int = 0,
        **options: Any,
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.pipeline, self.every, self.seed = pipeline, every, seed
        self.references = list(references)
        drawn = {} if options.get("mode") == "expected" else {"samples": 4}
        self.options = {"top_p": 0.9} | drawn | options

    def __call__(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The frames in colour.

        Args:
            frames: uint8 [H, W] or [H, W, 3], of which the luma counts, or gray uint16 [H, W]; all of one size.

        Returns:
            uint8 or uint16 [H, W, 3] each, in order; a second or so of frames is read ahead.

        Raises:
            ValueError: a frame of another kind or size.
        """
        for found in self.carry(_with_canvas(frames)):
            luma, kind = found.item
            yield recolor(luma, found.chroma, kind)

    def carry(self, frames: Iterable[tuple[T, Canvas]], state: State | None = None) -> Generator[Colored[T]]:
        """The colours of each frame on its canvas: what `__call__` does, without the frames themselves.

        Args:
            frames: whatever the caller has of each, and its canvas (`coltran.film.canvas`), all of one size.
            state: of an earlier `Colored`; the frames are those that follow it then.
        """
        intervals = self._intervals(frames, state)
        with ThreadPoolExecutor(1) as worker:  # the next anchor is found while the frames before it are coloured
            following = worker.submit(next, intervals, None)
            while (interval := following.result()) is not None:
                following = worker.submit(next, intervals, None)
                yield from _between(interval)

    def _intervals(self, frames: Iterable[tuple[T, Canvas]], state: State | None) -> Iterator[_Interval[T]]:
        before = () if state is None else (state.anchor.canvas, state.shot, state.number)
        references: list[Anchor] | None = None
        for shot, group in groupby(find_shots(frames, *before), lambda frame: frame.shot):
            of_shot = iter(group)
            following = next(of_shot)
            of_shot = chain([following], of_shot)
            if references is None:
                references = [_reference(image, following.canvas.gray.shape) for image in self.references]
            if state is None or state.shot != shot:
                head = list(islice(of_shot, LOOK))
                base = _clearest([frame.canvas for frame in head])
                state = self._begin(head[base], references)
                earlier, backwards = state, list[_Interval[T]]()
                rest = iter(head[:base][::-1])
                while interval := self._advance(earlier, rest, references):
                    backwards.append(replace(interval, backwards=True))
                    earlier = interval.state
                yield from backwards[::-1]
                yield _Interval(state.anchor, [head[base]], [state.from_key], state)
                of_shot = chain(head[base + 1 :], of_shot)
            while interval := self._advance(state, of_shot, references):
                state = interval.state
                yield interval

    def _begin(self, frame: Frame[T], references: Sequence[Anchor]) -> State:
        """The first anchor of a shot."""
        anchor = self._color(frame, [], references)
        return State(frame.shot, frame.number, anchor, anchor, identity(*frame.canvas.gray.shape))

    def _advance(self, state: State, frames: Iterator[Frame[T]], memory: Sequence[Anchor]) -> _Interval[T] | None:
        """The frames up to the next anchor; None where there are no more."""
        taken, matches = list[Frame[T]](), list[Match]()
        before = state.anchor.canvas
        found = identity(*before.gray.shape)
        for frame in frames:
            taken.append(frame)
            if not _is_faint(frame, state):
                found = match(state.anchor.canvas, frame.canvas, *join(found, shifted(before, frame.canvas)))
                before = frame.canvas
            matches.append(found)
            if not frame.flash and (len(taken) >= self.every or found.share < LEFT):
                break
        if not taken:
            return None
        frame, sources = taken[-1], [(state.anchor, found)]
        faint = _is_faint(frame, state)
        key, from_key = state.anchor, found
        if state.key is not state.anchor:
            start = join(state.from_key, found)
            from_key = Match(*start, found.sure) if faint else match(state.key.canvas, frame.canvas, *start)
            key = state.key
            sources.insert(0, (key, from_key))
        anchor = self._color(frame, sources, () if faint else [*memory, *state.memory], faint)
        remembered = state.memory
        if from_key.share < RENEW and not faint:
            remembered = (*remembered, key)[-REMEMBERED:]
            key, from_key = anchor, identity(*frame.canvas.gray.shape)
        return _Interval(
            state.anchor, taken, matches, State(frame.shot, frame.number, anchor, key, from_key, remembered)
        )

    def _color(
        self, frame: Frame[T], sources: list[tuple[Anchor, Match]], memory: Sequence[Anchor], faint: bool = False
    ) -> Anchor:
        """An anchor's colours: from what it is found in, from what is remembered, and drawn."""
        canvas = frame.canvas
        colors, sure = take(sources, canvas.gray.shape)
        if memory and _unknown(sure).mean() > SEARCH:
            colors, sure = take([*sources, *find(memory, canvas, sure <= KNOWN)], canvas.gray.shape)
        if faint or canvas.is_blank or _unknown(sure).mean() <= DRAW:
            return Anchor(canvas, fill(colors, sure), (sure > KNOWN).astype(np.float32))
        drawn = draw(self.pipeline, canvas, colors, sure, seed=(self.seed + frame.number) % 2**64, **self.options)
        return Anchor(canvas, merge(colors, sure, drawn), np.ones_like(sure))


def _is_faint(frame: Frame[T], state: State) -> bool:
    """Whether there is too little to see in a frame to find or draw anything."""
    return frame.flash or frame.canvas.contrast < FAINT * state.key.canvas.contrast


def _unknown(sure: np.ndarray) -> np.ndarray:
    """What is unknown of a frame, bool [h, w], but for what is narrow; beyond the edges everything is."""
    padded = np.pad((sure <= KNOWN).astype(np.uint8), NARROW, constant_values=1)
    wide = cv2.morphologyEx(padded, cv2.MORPH_OPEN, np.ones((NARROW, NARROW), np.uint8))
    return wide[NARROW:-NARROW, NARROW:-NARROW].astype(bool)


def _clearest(canvases: Sequence[Canvas]) -> int:
    """Which of a shot's first frames is drawn first: the first of all, but where they fade in one that has."""
    contrasts = np.array([canvas.contrast for canvas in canvases])
    return int(np.argmax(contrasts >= 0.9 * contrasts.max())) if contrasts[0] < CLEAR * contrasts.max() else 0


def _between(interval: _Interval[T]) -> list[Colored[T]]:
    """The colours of an interval's frames, in the order of the film."""
    last, count = interval.state.anchor, len(interval.frames)
    state = None if interval.backwards else interval.state
    final = interval.frames[-1]
    found = [Colored(final.item, as_bright_as(final.canvas, last.colors), final.shot, state)]
    from_last, after = identity(*last.canvas.gray.shape), last.canvas
    for n in reversed(range(count - 1)):
        frame = interval.frames[n]
        if not _is_faint(frame, interval.state):
            from_last = match(last.canvas, frame.canvas, *join(from_last, shifted(after, frame.canvas)))
            after = frame.canvas
        share = (n + 1) / count
        first = (1 - share) * interval.matches[n].sure
        second = share * from_last.sure
        colors = first[..., None] * carry(interval.first.colors, interval.matches[n])
        colors += second[..., None] * carry(last.colors, from_last)
        weight = first + second
        colors = fill(colors / np.maximum(weight, 1e-6)[..., None], np.minimum(1, weight / KNOWN))
        found.append(Colored(frame.item, as_bright_as(frame.canvas, colors), frame.shot))
    return found if interval.backwards else found[::-1]


def _reference(image: np.ndarray, size: tuple[int, int]) -> Anchor:
    small = area_resize(image, size)
    return Anchor(canvas_of(luminance(small), size), colors_of(small), np.ones(size, np.float32))


def _with_canvas(frames: Iterable[np.ndarray]) -> Iterator[tuple[tuple[np.ndarray, Any], Canvas]]:
    """The luma of frames, float32 [H, W] in 0 .. 255, and what they are made of, with their canvases."""
    shape: tuple[int, ...] | None = None
    for frame in frames:
        shape = shape or frame.shape
        image = read_photo(frame)
        if frame.shape != shape:
            raise ValueError(f"a frame of {list(frame.shape)} after one of {list(shape)}")
        luma = luminance(image)
        yield (luma, image.dtype.type), canvas_of(luma, canvas_size(*luma.shape))
