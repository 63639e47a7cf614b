# SPDX-License-Identifier: Apache-2.0
"""The files of a run: what each photograph's results are called, what is written, and colourings.json about them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image

from coltran.files import written_whole
from coltran.image import PhotoError, center_square
from coltran.photo import files
from coltran.photo.names import RECORD, Job, digest_of, name_results, recorded_files
from coltran.photo.sheets import sheet_of, stack_sheets

OF_FILES = ("colourings", "sha256", "source")  # what colourings.json says of a photograph's files
STACKED = 16  # photographs on the contact sheet of a run


def encode_coloring(
    image: np.ndarray, photo: files.Photograph, options: Mapping[str, Any], *, format: str | None, quality: int,
    sample: int, bits: float,
) -> bytes:  # fmt: skip
    """The file of one colouring with what its photograph's file has beside the pixels, and with what is known of it.

    Args:
        image: uint8 or uint16 [H, W, 3].
        options: how it was drawn, as of `Pipeline.colorize`.
        format, quality: as of `Results`.
        sample: which of the colourings it is.
        bits: of its colours, a pixel.
    """
    alpha = photo.alpha if options["size"] == "original" else None
    return files.encoded(
        image,
        format=format or photo.format,
        quality=quality,
        kept=photo.metadata,
        alpha=center_square(alpha) if alpha is not None and options["fit"] == "crop" else alpha,
        description=f"{files.OURS}: seed {options['seed']}, sample {sample}, {bits:.4f} bits a pixel",
    )


def write_coloring(
    image: np.ndarray, path: Path, photo: files.Photograph, options: Mapping[str, Any], **how: Any
) -> None:
    """Writes one colouring, whole or not at all; arguments as of `encode_coloring`."""
    files.write_bytes(encode_coloring(image, photo, options, **how), path)


def check_room(photo: files.Photograph, options: Mapping[str, Any], format: str) -> None:
    """Raises PhotoError where a format has no room for a result as large as the photograph, if it is to be.

    Args:
        options: as of `Pipeline.colorize`.
    """
    if options.get("size", "original") == "original":
        files.check_side(center_square(photo.pixels) if options.get("fit") == "crop" else photo.pixels, format)


class Results:
    """The results of a run, in one folder.

    Args:
        photos: of the run, and the subfolder of each's results; none of them is ever replaced, nor any other file that
            is no result.
        output: the folder.
        options: how the run draws, as of `Pipeline.colorize`: colourings.json says it of each photograph.
        count: results a photograph.
        format: of `coltran.photo.files.FORMATS`; None takes each photograph's own.
        quality: of JPEG and WebP.
        pages: as of `coltran.photo.names.name_results`.
        strict: refuse a photograph of which a part is missing.
    """

    def __init__(
        self, photos: Mapping[Path, PurePath], output: Path, *, options: Mapping[str, Any], count: int,
        format: str | None, quality: int, pages: Mapping[Path, Sequence[int]] | None = None, strict: bool = False,
    ) -> None:  # fmt: skip
        self.output, self.options, self.count, self.format, self.quality = output, dict(options), count, format, quality
        self.strict = strict
        self.record = load_record(output / RECORD)  # of earlier runs
        self.jobs = name_results(photos, self.record, pages, output)
        self.inputs = {photo.resolve() for photo in photos}
        self.earlier = EarlierResults(output)
        self.made: dict[str, Any] = {}  # of this run
        self.digests: dict[str, str] = {}  # by the photographs' sources

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
        found = self.record.get(job.key)
        if not isinstance(found, dict):
            return False
        same = {key: value for key, value in found.items() if key not in OF_FILES} == self.options
        if not same or found.get("sha256") not in (None, digest_of(job.photo)):  # None: of a version that told none
            return False
        paths = [self.output / name for name in recorded_files(found)]
        suffixes = {files.FORMATS[self.format]} if self.format else {path.suffix for path in paths}
        expected = [[self.output / f"{job.name}-{k}{suffix}" for k in range(self.count)] for suffix in suffixes]
        return paths in expected and all(path.exists() for path in [*paths, self.sheet(job)])

    def read(self, job: Job) -> files.Photograph:
        """The photograph.

        Raises:
            PhotoError: it cannot be read, or its results cannot be written.
        """
        photo = files.read(job.photo, page=job.page, strict=self.strict)
        check_room(photo, self.options, self.format or photo.format)
        self.targets(job, photo.format)
        self.digests[job.source] = digest_of(job.photo)
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
        self.sheet(job).parent.mkdir(parents=True, exist_ok=True)
        for path, image, its, sample in zip(self.targets(job, photo.format), images, bits, samples, strict=True):
            write_coloring(
                image, path, photo, self.options, format=self.format, quality=self.quality, sample=sample, bits=its
            )
            entries.append(
                {"file": path.relative_to(self.output).as_posix(), "sample": sample, "bits_per_pixel": round(its, 4)}
            )
            tiles.append((f"{path.name}: {its:.2f} bits a pixel", image))
        files.write_png(sheet_of(tiles), self.sheet(job))
        of_files = {"colourings": entries, "sha256": self.digests[job.source], "source": job.source}
        self.made[job.key] = self.options | of_files

    def save_record(self) -> None:
        """Writes colourings.json: what this run and others put into the folder."""
        written = {name for said in self.made.values() for name in recorded_files(said)}
        record = load_record(self.output / RECORD)  # anew: another run may have added to it
        kept = {photo: said for photo, said in record.items() if not written.intersection(recorded_files(said))}
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
        names = {name for said in record.values() for name in recorded_files(said)}
        photos = {re.sub(r"-\d+\.\w+$", "", name) for name in names}
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


def load_record(path: Path) -> dict[str, Any]:
    """What earlier runs have put into this folder; nothing where that is missing or not ours."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
