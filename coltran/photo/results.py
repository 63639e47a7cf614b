# SPDX-License-Identifier: Apache-2.0
"""The files of a run: what each photograph's results are called, what is written, and colourings.json about them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from coltran.files import written_whole
from coltran.image import PhotoError, center_square
from coltran.photo import files
from coltran.photo.sheets import sheet_of, stack_sheets

RECORD = "colourings.json"
STACKED = 16  # photographs on the contact sheet of a run


@dataclass(frozen=True)
class Job:
    """One photograph of a run."""

    photo: Path
    name: str  # what the names of its results begin with


def name_results(photos: Sequence[Path]) -> list[Job]:
    """For each photograph what its results' names begin with: its own name, with _2, ... where that is taken.

    Names that differ in case only count as the same, as they are on some file systems.
    """
    taken: set[str] = set()
    jobs = []
    for photo in photos:
        name, number = photo.stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{photo.stem}_{number}"
        taken.add(name.casefold())
        jobs.append(Job(photo, name))
    return jobs


def write_colouring(
    image: np.ndarray, path: Path, photo: files.Photograph, options: Mapping[str, Any], *, format: str | None,
    quality: int, sample: int, bits: float,
) -> None:  # fmt: skip
    """Writes one colouring with what its photograph's file has beside the pixels, and with what is known of it.

    Args:
        image: uint8 or uint16 [H, W, 3].
        options: how it was drawn, as of `Pipeline.colour`.
        format, quality: as of `Results`.
        sample: which of the colourings it is.
        bits: of its colours, a pixel.
    """
    alpha = photo.alpha if options["size"] == "original" else None
    files.write(
        image,
        path,
        format=format or photo.format,
        quality=quality,
        exif=photo.exif,
        alpha=center_square(alpha) if alpha is not None and options["fit"] == "crop" else alpha,
        description=f"{files.OURS}: seed {options['seed']}, sample {sample}, {bits:.4f} bits a pixel",
    )


def check_room(photo: files.Photograph, options: Mapping[str, Any], format: str) -> None:
    """Raises PhotoError where a format has no room for a result as large as the photograph, if it is to be.

    Args:
        options: as of `Pipeline.colour`.
    """
    if options.get("size", "original") == "original":
        files.check_side(center_square(photo.pixels) if options.get("fit") == "crop" else photo.pixels, format)


class Results:
    """The results of a run, in one folder.

    Args:
        photos: of the run; none of them is ever replaced, nor any other file that is no result.
        output: the folder.
        options: how the run draws, as of `Pipeline.colour`: colourings.json says it of each photograph.
        count: results a photograph.
        format: of `coltran.photo.files.FORMATS`; None takes each photograph's own.
        quality: of JPEG and WebP.
    """

    def __init__(
        self, photos: Sequence[Path], output: Path, *, options: Mapping[str, Any], count: int, format: str | None,
        quality: int,
    ) -> None:  # fmt: skip
        self.output, self.options, self.count, self.format, self.quality = output, dict(options), count, format, quality
        self.jobs = name_results(photos)
        self.inputs = {photo.resolve() for photo in photos}
        self.record = load_record(output / RECORD)  # of earlier runs
        self.earlier = EarlierResults(output)
        self.made: dict[str, Any] = {}  # of this run
        self.digests: dict[Path, str] = {}

    def sheet(self, job: Job) -> Path:
        """Where the sheet of a photograph is."""
        return self.output / f"{job.name}-sheet.png"

    def targets(self, job: Job, format: str) -> list[Path]:
        """Where its colourings go, where the photograph's own format is `format`.

        Raises:
            PhotoError: one of its results would replace a photograph of this run, or another file that is no result, or
                has a name that no file can have.
        """
        suffix = files.FORMATS[self.format or format]
        paths = [self.output / f"{job.name}-{k}{suffix}" for k in range(self.count)]
        for path in [*paths, self.sheet(job)]:
            try:
                free = self.earlier.may_replace(path, self.inputs)
            except OSError as error:
                raise PhotoError(f"{job.photo} is not coloured: {path}: {error.strerror}.") from error
            if not free:
                raise PhotoError(f"{job.photo} is not coloured: its result would replace {path}.")
        return paths

    def is_done(self, job: Job) -> bool:
        """Whether an earlier run with the same options has finished this photograph, under the names it has now."""
        found = self.record.get(str(job.photo))
        if not isinstance(found, dict):
            return False
        same = {key: value for key, value in found.items() if key not in ("colourings", "sha256")} == self.options
        if not same or found.get("sha256") not in (None, _digest(job.photo)):  # None: of a version that told none
            return False
        paths = [self.output / name for name in _recorded(found)]
        suffixes = {files.FORMATS[self.format]} if self.format else {path.suffix for path in paths}
        expected = [[self.output / f"{job.name}-{k}{suffix}" for k in range(self.count)] for suffix in suffixes]
        return paths in expected and all(path.exists() for path in [*paths, self.sheet(job)])

    def read(self, job: Job) -> files.Photograph:
        """The photograph.

        Raises:
            PhotoError: it cannot be read, or its results cannot be written.
        """
        photo = files.read(job.photo)
        check_room(photo, self.options, self.format or photo.format)
        self.targets(job, photo.format)
        self.digests[job.photo] = _digest(job.photo)
        return photo

    def write(
        self,
        job: Job,
        photo: files.Photograph,
        images: Sequence[np.ndarray],
        gray: np.ndarray,
        bits: Sequence[float],
        samples: Sequence[int],
    ) -> None:
        """Writes a photograph's colourings and then its sheet, each whole or not at all.

        Args:
            images: uint8 or uint16 [H, W, 3] each, in the order in which they are written.
            gray: uint8 [H, W], what was coloured.
            bits: of each image's colours, a pixel.
            samples: which of the samples each image is.

        Raises:
            PhotoError: as of `targets`.
            OSError: it cannot be written.
        """
        entries, tiles = [], [("gray", gray)]
        for path, image, its, sample in zip(self.targets(job, photo.format), images, bits, samples, strict=True):
            write_colouring(
                image, path, photo, self.options, format=self.format, quality=self.quality, sample=sample, bits=its
            )
            entries.append({"file": path.name, "sample": sample, "bits_per_pixel": round(its, 4)})
            tiles.append((f"{path.name}: {its:.2f} bits a pixel", image))
        files.write_png(sheet_of(tiles), self.sheet(job))
        self.made[str(job.photo)] = self.options | {"colourings": entries, "sha256": self.digests[job.photo]}

    def save_record(self) -> None:
        """Writes colourings.json: what this run and others put into the folder."""
        written = {name for said in self.made.values() for name in _recorded(said)}
        record = load_record(self.output / RECORD)  # anew: another run may have added to it
        kept = {photo: said for photo, said in record.items() if not written.intersection(_recorded(said))}
        with written_whole(self.output / RECORD) as temporary:
            temporary.write_text(json.dumps(kept | self.made, indent=1) + "\n", encoding="utf-8")

    def write_contact_sheet(self, done: Sequence[Job]) -> None:
        """Writes the sheets of the first of these photographs one above the other, where the run has several."""
        overview = self.output / "contact_sheet.png"
        made = [job for job in done if self.sheet(job).exists()][:STACKED]
        if len(self.jobs) > 1 and made and self.earlier.may_replace(overview, self.inputs):
            sheets = [(job.photo.name, np.asarray(Image.open(self.sheet(job)).convert("RGB"))) for job in made]
            files.write_png(stack_sheets(sheets), overview)


class EarlierResults:
    """Which files of a folder are results: those that say so, and those that its colourings.json names.

    Sheets and maps of earlier versions say nothing; they are known by the names of what they show.
    """

    def __init__(self, output: Path) -> None:
        record = load_record(output / RECORD)
        names = {name for said in record.values() for name in _recorded(said)}
        photos = {Path(name).stem.rpartition("-")[0] for name in names}
        pictures = {f"{photo}-{kind}.png" for photo in photos for kind in ("sheet", "surprise", "entropy")}
        self.colourings = {(output / name).resolve() for name in names}
        self.pictures = {(output / name).resolve() for name in [*pictures, *(["contact_sheet.png"] if record else [])]}

    def __contains__(self, path: Path) -> bool:
        return (
            path.resolve() in self.colourings or path.resolve() in self.pictures or files.said_by_us(path) is not None
        )

    def may_replace(self, path: Path, inputs: Collection[Path]) -> bool:
        """Whether a result may be written there: nothing lies there but an earlier one, which is none of the inputs."""
        return path.resolve() not in inputs and (not path.exists() or path in self)

    def is_picture(self, path: Path) -> bool:
        """Whether it is a sheet or a map, and no colouring."""
        return path.resolve() in self.pictures or files.said_by_us(path) == files.OURS


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""


def _recorded(said: object) -> list[str]:
    """The files that the record of a photograph names."""
    entries = said.get("colourings") if isinstance(said, dict) else None
    return [str(entry.get("file")) for entry in entries or () if isinstance(entry, dict)]


def load_record(path: Path) -> dict[str, Any]:
    """What earlier runs have put into this folder; nothing where that is missing or not ours."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
