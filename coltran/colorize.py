# SPDX-License-Identifier: Apache-2.0
"""Colours photographs.

    python -m coltran.colorize old.jpg -o coloured
    python -m coltran.colorize album/ scan.png -o coloured --samples 4 --seed 7
    python -m coltran.colorize old.jpg -o coloured --samples 16 --best 3 --format png
    python -m coltran.colorize old.jpg -o coloured --stage coarse --size network --checkpoint trained/

The result is the photograph, at its own size and with its own luminance; the networks give the colours. Colours
it may have are not used. For old.jpg, the output folder gets old-0.jpg, old-1.jpg, ... (the likeliest first, by
the model's own probability) and old-sheet.png: the gray photograph and all colourings side by side, small. A run
of several photographs also gets contact_sheet.png, the sheets of the first 16 one above the other.
colourings.json says of each file its sample, its seed and its bits a pixel (less is likelier). Results of the same
name from an earlier run are replaced, a photograph of this run never. A folder is searched with its subfolders.
A photograph that cannot be read is reported at the end (exit code 1), and the others are coloured all the same.

The same seed gives the same colours, whatever else is coloured in the same run. Unless --temperature 1 and
--top-p 1 are given, unlikely colours are left out: the default --top-p 0.9 spares the networks in the package the
stray pixels that they still draw now and then, and colourings are then no longer draws from the plain
distribution. The bits a pixel are under the plain distribution in any case.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from coltran import cli
from coltran.errors import UserError
from coltran.files import written_whole
from coltran.image import PhotoError, list_photos
from coltran.photo import files
from coltran.pipeline import STAGES, Colorized, Pipeline, from_pretrained

GAP = 4  # pixels between the tiles of a sheet
TILE = 384  # pixels of a tile's longer side, at most
RECORD = "colourings.json"
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
    quality = _number(int, lambda value: 1 <= value <= 100, "a whole number from 1 to 100")
    share = _number(float, lambda value: 0 < value <= 1, "a number above 0 and at most 1")

    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="a photograph, or a folder of photographs")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--checkpoint", type=Path, metavar="DIR",
        help="folder with colorizer/, color_upsampler/ and spatial_upsampler/ (default: the weights that "
        "come with the package)",
    )  # fmt: skip
    parser.add_argument("--samples", type=count, default=1, metavar="N", help="colourings a photograph (1)")
    parser.add_argument("--best", type=count, metavar="K", help="keep the K likeliest of them (default: all)")
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="of the random numbers (0)")
    parser.add_argument(
        "--temperature", type=temperature, default=1.0, metavar="T",
        help="below 1 keeps to likelier colours, above 1 is bolder (1.0)",
    )  # fmt: skip
    parser.add_argument(
        "--top-p", type=share, default=0.9, metavar="P",
        help="draw from the likeliest colours that together have this probability; 1 takes them all (0.9)",
    )  # fmt: skip
    parser.add_argument(
        "--mode", choices=("sample", "argmax"), default="sample",
        help="draw the coarse colours, or take the likeliest at each pixel: less colourful (sample)",
    )  # fmt: skip
    parser.add_argument(
        "--stage", choices=STAGES, default="final",
        help="whose colours: coarse (512 colours) and color are of 64 x 64 pixels (final)",
    )  # fmt: skip
    parser.add_argument(
        "--fit", choices=("stretch", "crop"), default="stretch",
        help="colour the whole photograph, or the central square as the paper does (stretch)",
    )  # fmt: skip
    parser.add_argument(
        "--size", choices=("original", "network"), default="original",
        help="the photograph's own size and sharpness, or the images that the networks draw (original)",
    )  # fmt: skip
    parser.add_argument("--format", choices=tuple(files.FORMATS), help="of the results (default: the photograph's)")
    parser.add_argument("--quality", type=quality, default=95, metavar="Q", help="of JPEG and WebP, 1 to 100 (95)")
    parser.add_argument("--batch", type=count, default=16, metavar="N", help="colourings that are drawn together (16)")
    parser.add_argument("--skip-existing", action="store_true", help="leave photographs whose results are all there")
    parser.add_argument(
        "--norm", choices=("exact", "rowcontext"), default="exact",
        help="exact samples what was trained; rowcontext is what the original program does with its own "
        "checkpoints (exact)",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="where to compute: cpu, cuda or xla (cpu)")
    parser.add_argument("--threads", type=count, metavar="N", help="CPU threads (default: torch decides)")
    arguments = parser.parse_args(argv)
    if arguments.best is not None and arguments.best > arguments.samples:
        parser.error(f"--best {arguments.best} of --samples {arguments.samples} cannot be kept")
    return arguments


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


def sheet_of(colorized: Colorized) -> np.ndarray:
    """The gray photograph and then all colourings, small, in rows of `COLUMNS` tiles on white: uint8 [H, W, 3]."""
    height, width = colorized.gray.shape
    shrink = min(1.0, TILE / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    whole = [np.repeat(colorized.gray[..., None], 3, axis=-1), *colorized.images]
    tiles = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in whole]
    columns = min(len(tiles), COLUMNS)
    rows = math.ceil(len(tiles) / columns)
    step = np.add(size, GAP)
    sheet = np.full((rows * step[1] - GAP, columns * step[0] - GAP, 3), 255, np.uint8)
    for k, tile in enumerate(tiles):
        top, left = k // columns * step[1], k % columns * step[0]
        sheet[top : top + size[1], left : left + size[0]] = tile
    return sheet


def stack_sheets(sheets: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Sheets with their names above them, one below the other on white: uint8 [H, W, 3]."""
    width = max(sheet.shape[1] for _, sheet in sheets)
    strips = []
    for name, sheet in sheets:
        title = Image.new("RGB", (width, 24), "white")
        ImageDraw.Draw(title).text((2, 4), name, "black", ImageFont.load_default(14))
        padded = np.full((sheet.shape[0] + GAP, width, 3), 255, np.uint8)
        padded[: sheet.shape[0], : sheet.shape[1]] = sheet
        strips += [np.asarray(title), padded]
    return np.concatenate(strips)


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


@dataclass(frozen=True)
class _Job:
    """One photograph of a run."""

    photo: Path
    results: list[Path]  # without their suffix, which the photograph's format decides
    sheet: Path


def colorize(pipeline: Pipeline, photos: Sequence[Path], output: Path, arguments: argparse.Namespace) -> list[str]:
    """Colours the photographs, several at a time; returns a sentence for each that could not be.

    While a batch is drawn, the next one is read and the one before is written.
    """
    run = _Run(photos, output, arguments)
    together = max(1, arguments.batch // arguments.samples)
    jobs = [job for job in run.jobs if not (arguments.skip_existing and run.is_done(job))]
    batches = [jobs[first : first + together] for first in range(0, len(jobs), together)]
    with _progress_bar() as progress, ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        overall = progress.add_task("photographs", total=len(jobs), visible=len(jobs) > 1)
        task = progress.add_task("reading", total=None)
        reading = reader.submit(run.read, batches[0]) if batches else None
        writing: Future[None] | None = None
        for n, batch in enumerate(batches):
            assert reading is not None
            read = reading.result()
            reading = reader.submit(run.read, batches[n + 1]) if n + 1 < len(batches) else None
            name = batch[0].photo.name if len(batch) == 1 else f"{len(batch)} photographs"

            def report(stage: str, done: int, total: int, name: str = name) -> None:
                progress.update(task, description=f"{name}: {stage}", completed=done, total=total)

            coloured = pipeline.colour(
                [photo.rgb for _, photo in read],
                samples=arguments.samples,
                seed=arguments.seed,
                temperature=arguments.temperature,
                top_p=arguments.top_p,
                mode=arguments.mode,
                stage=arguments.stage,
                norm=arguments.norm,
                fit=arguments.fit,
                size=arguments.size,
                batch_size=arguments.batch,
                progress=report,
            )
            if writing is not None:
                writing.result()
            writing = writer.submit(run.write, list(zip(read, coloured, strict=True)))
            progress.advance(overall, len(batch))
        if writing is not None:
            writing.result()
    run.finish()
    return run.problems


class _Run:
    """What reading and writing share: which files, what went wrong, and what colourings.json and the sheets say."""

    def __init__(self, photos: Sequence[Path], output: Path, arguments: argparse.Namespace) -> None:
        self.output, self.arguments = output, arguments
        self.inputs = {photo.resolve() for photo in photos}
        self.problems: list[str] = []
        self.sheets: list[tuple[str, np.ndarray]] = []
        self.record = _load_record(output / RECORD)
        kept = arguments.best or arguments.samples
        self.jobs = [
            _Job(photo, [output / f"{name}-{k}" for k in range(kept)], output / f"{name}-sheet.png")
            for photo, name in zip(photos, name_results(photos), strict=True)
        ]

    def is_done(self, job: _Job) -> bool:
        """Whether an earlier run has finished this photograph: its sheet is written last."""
        formats = [self.arguments.format] if self.arguments.format else list(files.FORMATS)
        suffixes = [files.FORMATS[name] for name in formats]
        done = all(any(stem.with_name(stem.name + end).exists() for end in suffixes) for stem in job.results)
        return done and job.sheet.exists()

    def read(self, jobs: Sequence[_Job]) -> list[tuple[_Job, files.Photograph]]:
        """The photographs that can be read and whose results replace none."""
        found = []
        for job in jobs:
            try:
                photo = files.read(job.photo)
                format = self.arguments.format or photo.format
                files.check_side(photo.rgb, format)
                targets = [path.with_name(path.name + files.FORMATS[format]) for path in job.results]
                if clash := self.inputs.intersection(path.resolve() for path in [*targets, job.sheet]):
                    raise PhotoError(f"{job.photo} is not coloured: its result would replace {min(clash)}.")
                found.append((_Job(job.photo, targets, job.sheet), photo))
            except PhotoError as error:
                self.problems.append(str(error))
        return found

    def write(self, coloured: Sequence[tuple[tuple[_Job, files.Photograph], Colorized]]) -> None:
        """The results of a batch, the likeliest colouring of each photograph first."""
        for (job, photo), found in coloured:
            order = sorted(range(len(found.images)), key=lambda s: -found.log_prob[s])[: len(job.results)]
            chosen = Colorized([found.images[s] for s in order], found.gray, [found.log_prob[s] for s in order])
            entries = []
            for path, sample, image, log_prob in zip(job.results, order, chosen.images, chosen.log_prob, strict=True):
                files.write(
                    image,
                    path,
                    format=self.arguments.format or photo.format,
                    quality=self.arguments.quality,
                    exif=photo.exif,
                    description=f"Coloured by coltran: seed {self.arguments.seed}, sample {sample}, "
                    f"{-log_prob:.4f} bits a pixel",
                )
                entries.append({"file": path.name, "sample": sample, "bits_per_pixel": round(-log_prob, 4)})
            sheet = sheet_of(chosen)
            write_png(sheet, job.sheet)
            if len(self.sheets) < STACKED:
                self.sheets.append((job.photo.name, sheet))
            options = ("seed", "temperature", "top_p", "mode", "stage", "norm", "fit", "size")
            self.record[str(job.photo)] = {name: getattr(self.arguments, name) for name in options} | {
                "colourings": entries
            }
            print(os.fsencode(f"{job.photo} -> {job.sheet}").decode(errors="replace"), flush=True)
        if coloured:
            with written_whole(self.output / RECORD) as temporary:
                temporary.write_text(json.dumps(self.record, indent=1) + "\n", encoding="utf-8")

    def finish(self) -> None:
        """Writes the sheet of the run."""
        overview = self.output / "contact_sheet.png"
        if len(self.jobs) > 1 and self.sheets and overview.resolve() not in self.inputs:
            write_png(stack_sheets(self.sheets), overview)


def _load_record(path: Path) -> dict[str, object]:
    """What earlier runs have put into this folder; nothing where that is missing or not ours."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


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
