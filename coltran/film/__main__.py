# SPDX-License-Identifier: Apache-2.0
"""Colours films: frames that keep their colours.

    python -m coltran.film clip.mp4 -o coloured.mp4
    python -m coltran.film clip.mp4 -o coloured.mkv --codec ffv1
    python -m coltran.film clip.mp4 -o coloured.mp4 --hint 12.5:320,180,#c03020 --reference still.jpg
    python -m coltran.film frames/ -o coloured/

The first frame of each shot is coloured as a photograph is, the best of four drawings; then its colours are carried
along the motion, and the networks draw only what newly comes into view, in keeping with what is known. Every frame has
its own luminance. docs/film.md explains how, and what can go wrong.

A film (anything that FFmpeg's libraries read; pip install coltran[film]) keeps its size, its frames' times, its sound
and its subtitles; the ending of the output decides its format. A folder of frames, in the order of the numbers in their
names, becomes a folder of frames of the same names.

A run that stops, also by Ctrl-C, leaves what is done so far as a film that can be played, and OUTPUT.parts beside it:
the same command goes on after the last whole segment, and makes the same frames as a run that never stopped.

--hint gives a place in the frame shown at SECONDS a colour, and what shows the same through the shot follows.
--reference takes the colours of a coloured photograph of the same scene, wherever the film shows what is in it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
from rich.progress import MofNCompleteColumn, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

from coltran import cli
from coltran.console import LOG, Parser
from coltran.errors import UsageError, UserError
from coltran.film import folders
from coltran.film.film import Film
from coltran.film.resume import Parts
from coltran.film.run import Target, color_film
from coltran.loading import from_pretrained
from coltran.photo.hints import Hint
from coltran.pipeline import read_photo

DRAWING = ("samples", "top_p", "particles", "mode", "guidance")  # options of `Pipeline.colorize`


class Rate(ProgressColumn):
    """Frames a second."""

    def render(self, task: Task) -> Text:
        """What is shown beside the bar."""
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


COLUMNS = (MofNCompleteColumn(), Rate(), TimeRemainingColumn())


class TimedHint(NamedTuple):
    """A hint for the frame that is shown at a time."""

    seconds: float
    hint: Hint


def timed_hint(text: str) -> TimedHint:
    """An argparse type: `SECONDS:X,Y,#RRGGBB[,R]`."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?):(.*)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a hint such as 12.5:120,45,#c03020")
    return TimedHint(float(found[1]), cli.hint(found[2]))


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; a usage error leaves the program with exit code 2."""
    parser = Parser("film", __doc__)
    parser.add_argument("film", type=Path, metavar="FILM", help="a film, or a folder of frames")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUTPUT", help="film or folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument(
        "--hint", action="append", default=[], type=timed_hint, metavar="SECONDS:X,Y,#RRGGBB[,R]",
        help="give pixel X,Y of the frame shown then that colour, or all within R pixels of it; of a folder SECONDS is "
        "the number of the frame, 0 the first; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--reference", action="append", default=[], type=Path, metavar="PHOTO",
        help="a photograph in colour of the same scene, whose colours are taken; may be repeated",
    )  # fmt: skip
    cli.add_drawing_arguments(parser)
    parser.add_argument(
        "--samples", type=cli.at_least(1), metavar="N",
        help="drawings of a shot's first frame, of which the one that comes first in colorize's --order is kept (4)",
    )  # fmt: skip
    parser.add_argument(
        "--mode", choices=("sample", "expected"), default="sample",
        help="draw what is not known; or take the colours that the guide expects, which is faster and sober (sample)",
    )  # fmt: skip
    parser.add_argument(
        "--particles", type=cli.at_least(1), default=1, metavar="K",
        help="draw K colourings together and go on from those that agree with what is known, so that what lies above "
        "known colours agrees better; drawing takes longer (1)",
    )  # fmt: skip
    parser.add_argument(
        "--every", type=cli.at_least(1), default=8, metavar="N",
        help="frames from one whose colours are found whole to the next, at most: fewer follow fast motion better and "
        "take longer (8)",
    )  # fmt: skip
    parser.add_argument("--codec", default="libx264", help="FFmpeg's name of it: libx264, libx265, ffv1, ... (libx264)")
    parser.add_argument(
        "--crf", type=cli.at_least(0), metavar="Q",
        help="quality, where the codec has such an option: less is better and larger (18 for libx264)",
    )  # fmt: skip
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="folder with the networks (the package's)")
    cli.add_machine_arguments(parser)
    arguments = parser.parse_args(argv)
    if arguments.mode == "expected" and ((arguments.samples or 1) > 1 or arguments.hint):
        parser.error("--mode expected draws nothing, so neither --samples nor --hint")
    if arguments.crf is None and arguments.codec == "libx264":
        arguments.crf = 18
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    arguments = parse_arguments(argv)
    device = cli.use_machine(arguments)
    if not arguments.film.exists():
        raise UserError(f"{arguments.film} does not exist.")
    target: Target
    if arguments.film.is_dir():
        target = folders.Target(arguments.film, arguments.output)
    else:
        target = _streams().Target(arguments.film, arguments.output, arguments.codec, arguments.crf)
    target.check(overwrite=arguments.overwrite or Parts.are_there(arguments.output))
    pipeline = from_pretrained(arguments.checkpoint).to(device)
    cli.resolve_guidance(arguments, pipeline.guide)
    given = {name: getattr(arguments, name) for name in DRAWING}
    drawing = {name: value for name, value in given.items() if value is not None}
    references = [read_photo(path) for path in arguments.reference]
    film = Film(pipeline, every=arguments.every, references=references, seed=arguments.seed, **drawing)
    film.references += _hinted(film, target, arguments.hint)
    order = {name: getattr(arguments, name) for name in (*DRAWING, "seed", "every", "codec", "crf", "hint")} | {
        "film": [str(arguments.film.resolve()), *target.stamp()],
        "reference": [hashlib.sha256(path.read_bytes()).hexdigest() for path in arguments.reference],
        "checkpoint": str(arguments.checkpoint and arguments.checkpoint.resolve()),
    }
    with cli.progress_bar(*COLUMNS) as bar:
        task = bar.add_task("frames", total=target.frames)
        summary = color_film(film, target, order, advance=lambda done: bar.update(task, completed=done))
    for problem in summary.problems:
        LOG.error("%s", problem)
    LOG.info("%s", f"{arguments.output}: {summary.frames} frames in {summary.shots} shots.")
    if arguments.json:
        found = {"frames": summary.frames, "shots": summary.shots, "problems": summary.problems}
        print(json.dumps({"output": str(arguments.output), **found}))
    return 1 if summary.problems else 0


def _hinted(film: Film, target: Target, hints: Sequence[TimedHint]) -> list[np.ndarray]:
    """The frames that are hinted at, coloured so: uint8 [H, W, 3]."""
    found = []
    for seconds in sorted({hint.seconds for hint in hints}):
        frame = target.frame_at(seconds)
        if frame is None:
            raise UsageError(f"There is no frame at {seconds:g} to give a hint for.")
        wished = [hint for at, hint in hints if at == seconds]
        found.append(film.pipeline(frame, hints=wished, best=1, seed=film.seed, **film.options).images[0])
    return found


def _streams() -> ModuleType:
    try:
        from coltran.film import streams  # PyAV is an extra
    except ModuleNotFoundError as error:
        raise UserError(f"A film needs the package {error.name}: pip install coltran[film].") from error
    return streams


if __name__ == "__main__":
    cli.run(main)
