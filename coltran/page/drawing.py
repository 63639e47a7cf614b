# SPDX-License-Identifier: Apache-2.0
"""Drawings that a browser asks for: who waits, what is drawn, and the lines that tell the browser of it."""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from coltran.errors import UserError
from coltran.page.session import Coloring, Session
from coltran.photo.hints import Box, Edits, Hint, parse_hint
from coltran.pipeline import DEFAULT_STAGE, Pipeline

PARTICLES = 4  # where there are hints and nothing is said
STAGE = DEFAULT_STAGE["original"]  # whose colours are put on photographs
OTHERS = 3  # seeds that are tried before a part is made to differ
ending = threading.Event()  # set when the program ends, and with it all work


class Stopped(Exception):
    """The drawing was cancelled."""


class Drawing:
    """One drawing of a session: runs in a thread of the line, and leaves messages for the browser.

    Args:
        options: what the browser asked for (`read_options`).
    """

    def __init__(self, pipeline: Pipeline, session: Session, options: dict[str, Any]) -> None:
        self.pipeline, self.session, self.options = pipeline, session, options
        self.stopped, self.done = threading.Event(), False
        self.messages: deque[dict[str, Any]] = deque()
        self.newest: dict[int, np.ndarray] = {}  # labels so far, by sample

    def tell(self, **message: Any) -> None:
        self.messages.append(message)

    def check(self) -> None:
        """Raises Stopped where the drawing is to end."""
        if self.stopped.is_set() or ending.is_set():
            raise Stopped

    def run(self) -> None:
        """Draws, and says how that ended."""
        try:
            self.check()
            self._draw()
            self.tell(end="done")
        except Stopped:
            self.tell(end="stopped")
        except UserError as error:
            self.tell(end="error", error=str(error))
        except Exception:
            self.tell(end="error", error="Something went wrong on the server; the photograph is still there.")
            raise
        finally:
            self.done = True

    def _draw(self) -> None:
        session, options = self.session, self.options
        strokes, box, base = options["strokes"], options["box"], options["base"]
        particles = options["particles"] or (PARTICLES if strokes else 1)
        samples = options["samples"]
        drawing: dict[str, Any] = {
            "particles": max(particles, samples) if particles > 1 else 1, "seed": options["seed"],
            "temperature": options["temperature"], "top_p": options["top_p"], "reach": True,
        }  # fmt: skip
        hints = [hint for stroke in strokes for hint in stroke]
        photo = session.read()

        def progress(stage: str, done: int, total: int) -> None:
            self.check()
            self.tell(stage="draw", done=done, total=total)

        def preview(_: int, sample: int, labels: np.ndarray) -> None:
            self.newest[sample] = labels

        def draw(edits: Edits, **changed: Any) -> Any:
            (found,) = self.pipeline.colorize(
                [photo.pixels], [edits], samples=samples, best=samples, stage="coarse", size="network",
                levels="auto", border="auto", progress=progress, preview=preview, **drawing | changed,
            )  # fmt: skip
            return found

        if base is None:
            found = draw(Edits(hints))
        elif box is not None:
            found = self._again(base, box, hints, draw)
        else:
            before = [read_stroke(stroke) for stroke in base.hints]
            redrawn = session.region([*strokes, *before])
            found = draw(Edits(hints, np.where(redrawn, -1, base.labels)))
        self.newest.clear()
        self._finish(found, drawing)

    def _again(self, base: Coloring, box: Box, hints: list[Hint], draw: Callable[..., Any]) -> Any:
        """The base with a part drawn anew, which differs from what it was."""
        for _ in range(OTHERS):
            found = draw(Edits(hints, base.labels, box), seed=secrets.randbits(32))
            if all((labels != base.labels).any() for labels in found.labels):
                return found
        x, y = (box.left + box.right) // 2, (box.top + box.bottom) // 2
        for color in ((196, 84, 60), (60, 110, 190), (80, 140, 60)):
            found = draw(Edits([*hints, Hint(x, y, color)], base.labels, box), seed=secrets.randbits(32))
            if all((labels != base.labels).any() for labels in found.labels):
                return found
        raise UserError("Nothing but this colour has the gray of that part.")

    def _finish(self, found: Any, drawing: dict[str, Any]) -> None:
        """Makes the colours fine, of one colouring after the other: the best is there before the others are begun."""
        count = len(found.labels)
        for k, labels in enumerate(found.labels):
            self.check()
            self.tell(stage="finish", done=k, total=count)
            image = self.pipeline.upsample(self.session.view, torch.from_numpy(labels), stage=STAGE)
            one = self.session.add(
                labels=labels, image=image, sample=found.samples[k], bits=-found.log_prob[k],
                options=drawing | {"samples": count}, hints=self.options["hints"],
            )  # fmt: skip
            self.tell(coloring=one.told())


class Line:
    """Who draws, and who waits for it: first come, first served.

    Args:
        workers: drawings at once.
        most: that may wait.
    """

    def __init__(self, workers: int, most: int) -> None:
        self.workers, self.most, self.running = workers, most, 0
        self.waiting: deque[Drawing] = deque()
        self.lock = threading.Lock()

    def join(self, drawing: Drawing) -> None:
        """Lets a drawing begin when it is its turn.

        Raises:
            UserError: too many wait.
        """
        with self.lock:
            if self.running >= self.workers and len(self.waiting) >= self.most:
                raise UserError("The queue of this page is full: try again in a minute.")
            self.waiting.append(drawing)
            self._next()

    def before(self, drawing: Drawing) -> int:
        """How many begin before it, those at work included; 0 where it has begun."""
        with self.lock:
            return self.waiting.index(drawing) + self.running if drawing in self.waiting else 0

    def leave(self, drawing: Drawing) -> None:
        """Ends a drawing, or its waiting."""
        drawing.stopped.set()
        with self.lock:
            if drawing in self.waiting:
                self.waiting.remove(drawing)

    def _next(self) -> None:
        while self.waiting and self.running < self.workers:
            self.running += 1
            threading.Thread(target=self._work, args=(self.waiting.popleft(),), name="drawing").start()

    def _work(self, drawing: Drawing) -> None:
        try:
            drawing.run()
        finally:
            with self.lock:
                self.running -= 1
                self._next()


def read_stroke(stroke: Any) -> list[Hint]:
    """The hints of a stroke as a browser sends it: `{"points": [[x, y], ...], "color": "#rrggbb", "radius": r}`.

    Raises:
        UserError: it has another form.
    """
    if isinstance(stroke, dict) and isinstance(points := stroke.get("points"), list) and points:
        ends = [stroke.get("color"), stroke.get("radius")]
        return [parse_hint(",".join(map(str, [*point, *ends]))) for point in points if isinstance(point, list)]
    raise UserError("A hint is a list of points, a colour and a radius.")


def read_options(asked: Any, session: Session, most_samples: int) -> dict[str, Any]:
    """What a browser asks of a drawing, checked.

    Raises:
        UserError: it makes no sense; one sentence says what.
    """
    if not isinstance(asked, dict):
        raise UserError("A drawing is asked for by names and values.")

    def number(name: str, default: float | None, least: float, most: float, whole: bool = True) -> Any:
        value = asked.get(name, default)
        if value is None and default is None:
            return None
        kind = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most:
            raise UserError(f"{name.capitalize()} has to be a {'whole ' * whole}number from {least:g} to {most:g}.")
        return value

    box, base, hints = asked.get("box"), asked.get("base"), asked.get("hints") or []
    if box is not None:
        if not (isinstance(box, list) and len(box) == 4 and all(isinstance(edge, int) for edge in box)):
            raise UserError("A part is four whole numbers: left, top, right and bottom.")
        box = Box(*box)
    if not isinstance(hints, list):
        raise UserError("Hints are a list.")
    return {
        "samples": number("samples", 4, 1, most_samples), "particles": number("particles", None, 1, most_samples),
        "temperature": number("temperature", 1.0, 0.01, 10, whole=False),
        "top_p": number("top_p", 0.9, 0.01, 1, whole=False),
        "seed": secrets.randbits(32) if asked.get("seed") is None else number("seed", 0, 0, 2**64 - 1),
        "base": None if base is None else session.coloring(base),
        "box": box, "hints": hints, "strokes": [read_stroke(stroke) for stroke in hints],
    }  # fmt: skip
