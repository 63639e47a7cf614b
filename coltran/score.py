# SPDX-License-Identifier: Apache-2.0
"""Says how plausible colourings are, and where a hint would help most.

    python -m coltran.score coloured/old-0.jpg coloured/old-1.jpg
    python -m coltran.score postcard.jpg -o scored
    python -m coltran.score --ask old.jpg -o asked

Each photograph is taken as a colouring of its own luminance, at the colorizer's size and in its 512 coarse
colours, and gets its bits a pixel under the model: less is likelier, so of several colourings of one photograph
the first in the list is the best. With -o, NAME-surprise.png shows which pixels the model finds implausible.

With --ask, colours are not looked at. Colourings are drawn instead, and the three places are named whose colour
would tell most about the rest, with what is plausible there, ready for `python -m coltran.colorize --hint`.
NAME-entropy.png shows how open the colour of each pixel is. Hints that are known already are given by --hint.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from coltran import cli
from coltran.album import find_photos
from coltran.console import LOG, Parser
from coltran.errors import reason
from coltran.files import check_output
from coltran.image import PhotoError
from coltran.loading import from_pretrained
from coltran.photo.ask import Place, ask
from coltran.photo.files import write_png
from coltran.photo.hints import Hint, HintError
from coltran.photo.names import name_results
from coltran.photo.overlay import LONGEST, heat
from coltran.photo.results import EarlierResults
from coltran.photo.view import View
from coltran.pipeline import Pipeline
from coltran.sampling.assess import MOST_BITS, assess

SURPRISING = 16.0  # bits at which the map of the surprise is brightest


def score(pipeline: Pipeline, photo: Path, fit: str = "stretch") -> tuple[float, np.ndarray]:
    """The bits a pixel of a photograph's own colours, and the map of the surprise, uint8 [H, W, 3].

    Raises:
        PhotoError: it cannot be read.
    """
    view = pipeline.look(photo, fit)
    assessed = assess(pipeline.colorizer, view, [view.labels()])
    return assessed.bits_per_pixel[0], heat(view.photo, assessed.surprise[0], SURPRISING)


def ask_about(
    pipeline: Pipeline,
    photo: Path,
    *,
    hints: Sequence[Hint] = (),
    fit: str = "stretch",
    samples: int = 32,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[dict[str, Any], np.ndarray]:
    """Where a hint would help most: what the program prints, and the map of the entropy, uint8 [H, W, 3].

    Raises:
        PhotoError: it cannot be read.
        HintError: a hint that cannot be followed.
    """
    view = pipeline.look(photo, fit)
    drawn = pipeline(
        photo, hints=hints, samples=samples, seed=seed, fit=fit, stage="coarse", size="network", levels="auto",
        border="auto", progress=progress,
    )  # fmt: skip
    assessed = assess(pipeline.colorizer, view, drawn.labels)
    places = ask(np.stack(drawn.labels), view)
    found = {
        "photo": str(photo),
        "entropy_per_pixel": round(float(assessed.entropy.mean()), 4),
        "places": [
            {
                "x": place.x,
                "y": place.y,
                "bits": round(place.bits, 2),
                "colours": [
                    {"colour": "#{:02x}{:02x}{:02x}".format(*colour), "probability": round(probability, 3)}
                    for colour, probability in assessed.plausible(place.x, place.y)
                ],
            }
            for place in places
        ],
    }
    return found, number_places(heat(view.photo, assessed.entropy, MOST_BITS), view, places)


def number_places(picture: np.ndarray, view: View, places: Sequence[Place]) -> np.ndarray:
    """A picture of the view, uint8 [h, w, 3], with a numbered ring at each place."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    scale = picture.shape[1] / view.photo.shape[1]
    radius = max(6, LONGEST // 48)
    for number, place in enumerate(places, 1):
        x, y = (place.x - view.left + 0.5) * scale, (place.y - view.top + 0.5) * scale
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline="white", width=2)
        draw.text((x, y), str(number), "white", ImageFont.load_default(1.4 * radius), anchor="mm")
    return np.asarray(image)


def in_words(answer: dict[str, Any]) -> str:
    """What was found about one photograph, for people."""
    if "places" not in answer:
        return f"{answer['bits_per_pixel']:9.4f} bits a pixel  {answer['photo']}"
    lines = [f"{answer['photo']}: {answer['entropy_per_pixel']:.2f} bits of entropy a pixel"]
    for number, place in enumerate(answer["places"], 1):
        colours = ", ".join(f"{one['colour']} {one['probability']:.0%}" for one in place["colours"])
        lines.append(
            f"  {number}. --hint {place['x']},{place['y']},#RRGGBB is worth {place['bits']:.1f} bits: {colours}"
        )
    return "\n".join(lines)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; a usage error leaves the program with exit code 2."""
    parser = Parser("score", __doc__)
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="a photograph, or a folder of photographs")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder for the maps (default: none)")
    parser.add_argument("--ask", action="store_true", help="say where a hint would help most")
    parser.add_argument(
        "--hint",
        action="append",
        default=[],
        type=cli.hint,
        metavar="X,Y,#RRGGBB[,R]",
        help="--ask: what is known already",
    )
    parser.add_argument("--samples", type=cli.at_least(16), metavar="N", help="--ask: colourings (32)")
    parser.add_argument("--seed", type=cli.seed, metavar="S", help="--ask: of the colourings (0)")
    parser.add_argument("--fit", choices=("stretch", "crop"), default="stretch", help="as coltran.colorize (stretch)")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="folder with the networks (the package's)")
    cli.add_machine_arguments(parser)
    arguments = parser.parse_args(argv)
    if not arguments.ask and (arguments.hint or arguments.samples is not None or arguments.seed is not None):
        parser.error("--hint, --samples and --seed are for --ask")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    arguments = parse_arguments(argv)
    device = cli.use_machine(arguments)
    photos, problems = find_photos(arguments.photos, arguments.output, colourings=True)
    found: list[dict[str, Any]] = []
    if photos:
        if arguments.output:
            check_output(arguments.output)
        pipeline = from_pretrained(arguments.checkpoint).to(device)
        if arguments.output:
            arguments.output.mkdir(parents=True, exist_ok=True)
            inputs, earlier = {photo.resolve() for photo in photos}, EarlierResults(arguments.output)
        with cli.progress_bar() as progress:
            task = progress.add_task("photographs", total=len(photos))
            for job in name_results(photos):
                try:
                    if arguments.ask:
                        answer, picture = ask_about(
                            pipeline, job.photo, hints=arguments.hint, fit=arguments.fit,
                            samples=arguments.samples or 32, seed=arguments.seed or 0,
                        )  # fmt: skip
                    else:
                        bits, picture = score(pipeline, job.photo, arguments.fit)
                        answer = {"photo": str(job.photo), "bits_per_pixel": round(bits, 4)}
                    found.append(answer)
                    if arguments.output:
                        target = arguments.output / f"{job.name}-{'entropy' if arguments.ask else 'surprise'}.png"
                        if not earlier.may_replace(target, inputs):
                            raise PhotoError(f"The map of {job.photo} is not written: it would replace {target}.")
                        target.parent.mkdir(parents=True, exist_ok=True)
                        write_png(picture, target)
                except (PhotoError, HintError) as error:
                    problems.append(str(error))
                except OSError:
                    raise
                except Exception as error:
                    problems.append(f"{job.photo} is not scored: {reason(error)}.")
                progress.advance(task)
    if not arguments.ask:
        found.sort(key=lambda one: one["bits_per_pixel"])
    for answer in found:
        LOG.info("%s", in_words(answer))
    if arguments.json:
        print(json.dumps(found))
    for problem in problems:
        LOG.error("%s", problem)
    return 1 if problems else 0


if __name__ == "__main__":
    cli.run(main)
