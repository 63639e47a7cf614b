# SPDX-License-Identifier: Apache-2.0
"""Command-line options that edit one colouring: hints, and a box that is drawn again."""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from coltran import cli
from coltran.photo.hints import Box, Edits, read_mask
from coltran.pipeline import Photo, Pipeline, read_photo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    group = parser.add_argument_group("edits of one photograph", "docs/hints.md explains them.")
    group.add_argument(
        "--hint", action="append", default=[], type=cli.hint, metavar="X,Y,#RRGGBB[,R]",
        help="give the photograph's pixel X from the left and Y from the top that colour, or all within R pixels of "
        "it; may be repeated",
    )  # fmt: skip
    group.add_argument(
        "--hints", type=Path, metavar="FILE",
        help="hints as an image of the photograph's size, transparent but for dabs of colour",
    )  # fmt: skip
    group.add_argument(
        "--particles", type=cli.at_least(2), metavar="K",
        help="draw K colourings together and go on from those that agree with the edits, so that what lies above "
        "a hint follows it as well; 32 or 64 are usual",
    )  # fmt: skip
    group.add_argument(
        "--redraw", type=_box, metavar="LEFT,TOP,RIGHT,BOTTOM",
        help="keep the colouring of --seed outside of this box of pixels, and draw what is inside anew",
    )  # fmt: skip
    group.add_argument("--keep", type=cli.at_least(0), metavar="N", help="which sample of --seed --redraw keeps (0)")
    group.add_argument(
        "--redraw-seed", type=cli.seed, metavar="S", help="of what --redraw draws (default: --seed and 1)"
    )


def _box(text: str) -> Box:
    found = re.fullmatch(r"(\d+),(\d+),(\d+),(\d+)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a box such as 0,120,640,480")
    return Box(*map(int, found.groups()))


def check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Ends the program with a usage error where the flags make no sense together; fills in their defaults."""
    if arguments.redraw is None and (arguments.keep is not None or arguments.redraw_seed is not None):
        parser.error("--keep and --redraw-seed belong to --redraw")
    if arguments.particles and not are_given(arguments):
        parser.error("--particles is for --hint, --hints or --redraw")
    if arguments.particles and arguments.particles < arguments.samples:
        parser.error(f"--particles {arguments.particles} are fewer than --samples {arguments.samples}")
    if arguments.redraw:
        arguments.keep = arguments.keep or 0
        if arguments.particles and arguments.particles <= arguments.keep:
            parser.error(f"--keep {arguments.keep} is none of --particles {arguments.particles}")
        if arguments.redraw_seed is None:
            arguments.redraw_seed = (arguments.seed + 1) % 2**64


def are_given(arguments: argparse.Namespace) -> bool:
    """Whether the command line asks for any edit."""
    return bool(arguments.hint or arguments.hints or arguments.redraw)


def drawing(arguments: argparse.Namespace, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `Pipeline.colorize` as the edits change them."""
    changed = {"particles": arguments.particles} if arguments.particles else {}
    return dict(options) | changed | ({"seed": arguments.redraw_seed} if arguments.redraw else {})


def of_photograph(arguments: argparse.Namespace, pipeline: Pipeline, image: Photo, options: Mapping[str, Any]) -> Edits:
    """The edits of a photograph. For --redraw this first draws the colouring that is kept.

    Args:
        options: of `Pipeline.colorize`, with --seed.

    Raises:
        PhotoError: it or the mask cannot be read.
        HintError: an edit that cannot be followed.
    """
    photo = read_photo(image)
    hints = list(arguments.hint)
    if arguments.hints:
        hints += read_mask(arguments.hints, *photo.shape[:2])
    view = pipeline.look(photo, options["fit"], options["levels"], options["border"])
    anything = np.zeros(view.gray_low.shape, np.int64)
    Edits(hints, anything, arguments.redraw).labels(view)  # what cannot be followed is told before all else
    if arguments.redraw is None:
        return Edits(hints)
    first = dict(options) | {"stage": "coarse", "size": "network"}
    left, top, right, bottom = arguments.redraw
    outside = [hint for hint in hints if not (left <= hint.x < right and top <= hint.y < bottom)]
    particles = arguments.particles if outside and arguments.particles else 1  # without hints it was drawn without them
    kept = pipeline(photo, hints=outside, samples=arguments.keep + 1, particles=particles, **first).labels[-1]
    return Edits(hints, kept, arguments.redraw)


def noted(arguments: argparse.Namespace) -> dict[str, Any]:
    """The edits as they stand in colourings.json."""
    found: dict[str, Any] = {}
    if arguments.hint:
        found["hints"] = [f"{x},{y},#{bytes(colour).hex()},{radius}" for x, y, colour, radius in arguments.hint]
    if arguments.hints:
        digest = hashlib.sha256(arguments.hints.read_bytes()).hexdigest()
        found["mask"] = {"file": str(arguments.hints), "sha256": digest}
    if arguments.redraw:
        found["redraw"] = {"box": list(arguments.redraw), "seed": arguments.seed, "sample": arguments.keep}
    return found
