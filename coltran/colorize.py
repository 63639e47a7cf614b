# SPDX-License-Identifier: Apache-2.0
"""Colours photographs.

    python -m coltran.colorize old.jpg -o coloured
    python -m coltran.colorize album/ scan.png -o coloured --samples 4 --seed 7
    python -m coltran.colorize old.jpg -o coloured --temperature 0.9 --top-p 0.95
    python -m coltran.colorize old.jpg -o coloured --stage coarse --checkpoint trained/

Of each photograph the central square is coloured, 256 x 256 pixels with the published networks; colours it
may have are not used. For old.jpg, the output folder gets old-0.png, old-1.png, ... (one a sample) and
old-sheet.png: the gray square and all samples side by side. A run of several photographs also gets
contact_sheet.png, the sheets of the first 16 one above the other. Results of the same name from an earlier
run are replaced, a photograph of this run never. A folder is searched with its subfolders. A photograph that
cannot be read is reported at the end (exit code 1), and the others are coloured all the same.

The same seed gives the same colours, whatever else is coloured in the same run; more samples add to fewer.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from coltran import cli
from coltran.errors import UserError
from coltran.files import written_whole
from coltran.image import PhotoError, list_photos, load_photo
from coltran.pipeline import STAGES, Colorized, Pipeline, from_pretrained

GAP = 4  # pixels between the tiles of a sheet
COLUMNS = 6  # tiles in one row of a sheet
STACKED = 16  # photographs on the contact sheet of a run


def _number(convert: Callable[[str], float], holds: Callable[[float], bool], wanted: str) -> Callable[[str], float]:
    """An argparse type: a number for which `holds`, else a usage error that says what is `wanted`."""

    def parse(text: str) -> float:
        try:
            value = convert(text)
        except ValueError:
            value = math.nan
        if not holds(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    return parse


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; a usage error leaves the program with exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m coltran.colorize",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    count = _number(int, lambda value: value >= 1, "a whole number from 1")
    seed = _number(int, lambda value: 0 <= value < 2**64, "a whole number from 0 to 2**64 - 1")
    temperature = _number(float, lambda value: 0 < value < math.inf, "a number above 0")
    share = _number(float, lambda value: 0 < value <= 1, "a number above 0 and at most 1")

    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="a photograph, or a folder of photographs")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--checkpoint", type=Path, metavar="DIR",
        help="folder with colorizer/, color_upsampler/ and spatial_upsampler/ (default: the weights that "
        "come with the package)",
    )  # fmt: skip
    parser.add_argument("--samples", type=count, default=1, metavar="N", help="colourings a photograph (1)")
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="of the random numbers (0)")
    parser.add_argument(
        "--temperature", type=temperature, default=1.0, metavar="T",
        help="below 1 keeps to likelier colours, above 1 is bolder (1.0)",
    )  # fmt: skip
    parser.add_argument(
        "--top-p", type=share, default=1.0, metavar="P",
        help="draw from the likeliest colours that together have this probability (1.0)",
    )  # fmt: skip
    parser.add_argument(
        "--mode", choices=("sample", "argmax"), default="sample",
        help="draw the coarse colours, or take the likeliest at each pixel: less colourful (sample)",
    )  # fmt: skip
    parser.add_argument(
        "--stage", choices=STAGES, default="final",
        help="where to stop: coarse (512 colours) and color are small images (final)",
    )  # fmt: skip
    parser.add_argument(
        "--norm", choices=("exact", "rowcontext"), default="exact",
        help="exact samples what was trained; rowcontext is what the original program does with its own "
        "checkpoints (exact)",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="where to compute: cpu, cuda or xla (cpu)")
    parser.add_argument("--threads", type=count, metavar="N", help="CPU threads (default: torch decides)")
    return parser.parse_args(argv)


def find_photos(named: Sequence[str], output: Path) -> tuple[list[Path], list[str]]:
    """The photographs to colour, each once, and a sentence for each name that stands for none.

    Earlier results are no photographs: when a named folder contains the output folder, that is left out.
    """
    photos: dict[Path, None] = {}
    problems = []
    for name in named:
        try:
            listed = list_photos([name])
        except PhotoError as error:
            problems.append(str(error))
            continue
        if Path(name).resolve() in output.resolve().parents:
            listed = [photo for photo in listed if output.resolve() not in photo.resolve().parents]
            if not listed:
                problems.append(f"The folder {name} holds no photographs but earlier results.")
        photos.update(dict.fromkeys(listed))
    return list(photos), problems


def name_results(photos: Sequence[Path]) -> list[str]:
    """For each photograph what its results' names begin with: its own name, with _2, ... where that is taken.

    Names that differ in case only count as the same, as they are on some file systems.
    """
    taken: set[str] = set()
    names = []
    for photo in photos:
        name, number = photo.stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{photo.stem}_{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def contact_sheet(colorized: Colorized) -> np.ndarray:
    """The gray square and then all samples, in rows of `COLUMNS` tiles on white: uint8 [H, W, 3]."""
    tiles = [np.repeat(colorized.gray[..., None], 3, axis=-1), *colorized.images]
    step = colorized.gray.shape[0] + GAP
    columns = min(len(tiles), COLUMNS)
    rows = math.ceil(len(tiles) / columns)
    sheet = np.full((rows * step - GAP, columns * step - GAP, 3), 255, np.uint8)
    for k, tile in enumerate(tiles):
        top, left = k // columns * step, k % columns * step
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet


def write_png(pixels: np.ndarray, path: Path) -> None:
    """Writes uint8 [H, W, 3] whole or not at all."""
    with written_whole(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def check_output(output: Path) -> None:
    """Raises UserError where the output folder cannot be written to; makes nothing yet."""
    existing = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.exists())
    if not existing.is_dir():
        raise UserError(f"{output} cannot be written: {existing} is not a folder.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{output} cannot be written: permission denied.")


def _progress_bar() -> Progress:
    """A bar on stderr, where that is a terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=sys.stdout.isatty(),
    )


def colorize(pipeline: Pipeline, photos: Sequence[Path], output: Path, arguments: argparse.Namespace) -> list[str]:
    """Colours the photographs one after another; returns a sentence for each that could not be."""
    problems = []
    sheets: list[np.ndarray] = []
    inputs = {photo.resolve() for photo in photos}
    with _progress_bar() as progress:
        overall = progress.add_task("photographs", total=len(photos), visible=len(photos) > 1)
        for photo, name in zip(photos, name_results(photos), strict=True):
            task = progress.add_task(photo.name, total=None)

            def report(stage: str, done: int, total: int, photo: Path = photo, task: TaskID = task) -> None:
                progress.update(task, description=f"{photo.name}: {stage}", completed=done, total=total)

            results = [output / f"{name}-{k}.png" for k in range(arguments.samples)]
            sheet = output / f"{name}-sheet.png"
            try:
                if clash := inputs.intersection(path.resolve() for path in [*results, sheet]):
                    raise PhotoError(f"{photo} is not coloured: its result would replace {min(clash)}.")
                colorized = pipeline(
                    load_photo(photo),
                    samples=arguments.samples,
                    seed=arguments.seed,
                    temperature=arguments.temperature,
                    top_p=arguments.top_p,
                    mode=arguments.mode,
                    stage=arguments.stage,
                    norm=arguments.norm,
                    progress=report,
                )
            except PhotoError as error:
                problems.append(str(error))
            else:
                for pixels, path in zip(colorized.images, results, strict=True):
                    write_png(pixels, path)
                sheets.append(contact_sheet(colorized))
                write_png(sheets[-1], sheet)
                del sheets[STACKED:]
                print(os.fsencode(f"{photo} -> {sheet}").decode(errors="replace"), flush=True)
            progress.remove_task(task)
            progress.advance(overall)
    overview = output / "contact_sheet.png"
    if len(photos) > 1 and sheets and overview.resolve() not in inputs:
        gap = np.full((GAP, *sheets[0].shape[1:]), 255, np.uint8)
        write_png(np.concatenate([strip for sheet in sheets for strip in (gap, sheet)][1:]), overview)
    return problems


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    arguments = parse_arguments(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = cli.device(arguments.device)
    photos, problems = find_photos(arguments.photos, arguments.output)
    if photos:
        check_output(arguments.output)
        pipeline = from_pretrained(arguments.checkpoint).to(device)
        if arguments.stage not in pipeline.stages:
            reached = f"it reaches --stage {pipeline.stages[-1]}"
            raise UserError(f"The checkpoint has no network for --stage {arguments.stage}: {reached}.")
        arguments.output.mkdir(parents=True, exist_ok=True)
        problems += colorize(pipeline, photos, arguments.output, arguments)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    cli.run(main)
