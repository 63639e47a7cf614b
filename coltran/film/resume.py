# SPDX-License-Identifier: Apache-2.0
"""A run's whole segments, so that the next one goes on after the last of them with the same frames.

Beside the output OUT, the folder OUT.parts holds of each segment its pictures (of a film; a folder's frames are where
they belong at once), and of the last the state that the following frames depend on. `run.json` names what is whole; it
is written last, and at once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from coltran.files import written_whole
from coltran.film.anchors import Anchor
from coltran.film.canvas import Canvas
from coltran.film.film import State
from coltran.film.flow import Match

RECORD = "run.json"


class Parts:
    """The segments of a run.

    Args:
        output: what the run makes.
        order: all that its frames depend on, of values that JSON has; parts of another order are thrown away.
    """

    def __init__(self, output: Path, order: Mapping[str, Any]) -> None:
        self.folder = self.place(output)
        self.order = json.loads(json.dumps(order))
        self.counts: list[int] = []  # frames of each whole segment
        try:
            found = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
            if found["order"] == self.order:
                self.counts = [int(count) for count in found["frames"]]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        if not self.counts:
            self.remove()
        self.folder.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def place(output: Path) -> Path:
        """The folder for an output."""
        return output.with_name(f"{output.name}.parts")

    @classmethod
    def are_there(cls, output: Path) -> bool:
        """Whether an earlier run left segments, so that the output, if there is one, is not whole."""
        return (cls.place(output) / RECORD).exists()

    @property
    def done(self) -> int:
        """Frames of whole segments."""
        return sum(self.counts)

    @property
    def paths(self) -> list[Path]:
        """Where the pictures of whole segments are."""
        return [self._pictures(number) for number in range(len(self.counts))]

    @property
    def following(self) -> Path:
        """Where the pictures of the next segment are to be."""
        return self._pictures(len(self.counts))

    def state(self) -> State | None:
        """What the frames after the last whole segment depend on."""
        if not self.counts:
            return None
        with np.load(self._state(len(self.counts) - 1), allow_pickle=False) as arrays:
            return unpack(dict(arrays))

    def end(self, frames: int, state: State) -> None:
        """The next segment is whole: its pictures are where they belong."""
        number = len(self.counts)
        with written_whole(self._state(number)) as path, path.open("wb") as file:
            np.savez(file, allow_pickle=False, **pack(state))
        self.counts.append(frames)
        with written_whole(self.folder / RECORD) as path:
            path.write_text(json.dumps({"order": self.order, "frames": self.counts}), encoding="utf-8")
        if number:
            self._state(number - 1).unlink(missing_ok=True)

    def remove(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _pictures(self, number: int) -> Path:
        return self.folder / f"{number:06d}.pictures"

    def _state(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"


def pack(state: State) -> dict[str, np.ndarray]:
    """A state as arrays."""
    same = state.key is state.anchor
    anchors = [state.anchor, *([] if same else [state.key]), *state.memory]
    arrays = {"numbers": np.array([state.shot, state.number, same], np.int64)}
    arrays |= {name: getattr(state.from_key, name) for name in ("there", "back", "sure")}
    for n, anchor in enumerate(anchors):
        arrays |= {f"gray{n}": anchor.canvas.gray, f"colors{n}": anchor.colors, f"trust{n}": anchor.trust}
    return arrays


def unpack(arrays: Mapping[str, np.ndarray]) -> State:
    """The state of `pack`."""
    shot, number, same = arrays["numbers"].tolist()
    count = sum(name.startswith("gray") for name in arrays)
    anchors = [Anchor(Canvas(arrays[f"gray{n}"]), arrays[f"colors{n}"], arrays[f"trust{n}"]) for n in range(count)]
    anchor, *rest = anchors if not same else [anchors[0], *anchors]
    from_key = Match(arrays["there"], arrays["back"], arrays["sure"])
    return State(shot, number, anchor, rest[0], from_key, tuple(rest[1:]))
