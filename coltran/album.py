# SPDX-License-Identifier: Apache-2.0
"""Colours many photographs: several are drawn together, while the next ones are read and those before are written."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Any, TypeVar

from coltran.cli import progress_bar
from coltran.console import LOG
from coltran.errors import UserError, reason
from coltran.files import clear_unfinished
from coltran.image import PhotoError, list_photos
from coltran.photo.decoding import find_pages
from coltran.photo.files import Photograph
from coltran.photo.hints import Edits
from coltran.photo.kinds import left_out
from coltran.photo.names import Job
from coltran.photo.results import EarlierResults, Results
from coltran.photo.variety import choose_diverse, differences
from coltran.pipeline import Colorized, Pipeline

T = TypeVar("T")
Found = list[tuple[Job, Photograph]]
ROOM = 1 << 26  # pixels of colourings that are made together; the next and the last ones take memory as well


def find_photos(
    named: Sequence[str], output: Path | None, *, colourings: bool = False
) -> tuple[dict[Path, PurePath], list[str]]:
    """The photographs to colour, each once with its subfolder, and a sentence for each name that stands for none.

    Earlier results are no photographs: when a named folder contains the output folder, that is left out, and when it is
    that folder or in it, what is a result; with `colourings` only sheets and maps, so that colourings can be scored.
    """
    photos: dict[Path, PurePath] = {}
    problems = []
    earlier = EarlierResults(output) if output is not None else None
    for name in named:
        try:
            listed = list_photos([name])
        except PhotoError as error:
            problems.append(str(error))
            continue
        if Path(name).is_dir() and (others := left_out(path for path in Path(name).rglob("*") if path.is_file())):
            LOG.warning("%s", f"Left out in {name}: {others}.")
        if output is not None and earlier is not None and Path(name).is_dir():
            folder, place = Path(name).resolve(), output.resolve()
            if folder in place.parents:
                listed = [photo for photo in listed if place not in photo.resolve().parents]
            elif folder == place or place in folder.parents:
                listed = [p for p in listed if not (earlier.is_picture(p) if colourings else p in earlier)]
            if not listed:
                problems.append(f"The folder {name} holds no photographs but earlier results.")
        for photo in listed:
            photos.setdefault(photo, photo.relative_to(name).parent if Path(name).is_dir() else PurePath())
    return photos, problems


def color_album(
    pipeline: Pipeline,
    photos: Mapping[Path, PurePath],
    output: Path,
    *,
    drawing: Mapping[str, Any],
    samples: int = 1,
    best: int | None = None,
    batch: int = 16,
    format: str | None = None,
    quality: int = 95,
    skip_existing: bool = False,
    diverse: int | None = None,
    edits: Edits | None = None,
    noted: Mapping[str, Any] | None = None,
    pages: str = "first",
    strict: bool = False,
) -> tuple[list[str], list[str]]:
    """Colours photographs into a folder.

    What goes wrong in one of them, whatever it is, keeps none of the others from being coloured.

    Args:
        photos: and the subfolder of each's results (`find_photos`).
        output: the folder, which exists.
        drawing: options of `Pipeline.colorize`, `seed` among them.
        samples, best: colourings a photograph, and how many of them are kept: all where None.
        diverse: keep the first in the order and so many that differ most from it and from each other instead.
        edits: what is imposed, where there is one photograph.
        noted: more for colourings.json to say of each photograph.
        batch: colourings that are drawn together.
        format, quality: see `coltran.photo.results.Results`.
        pages: "all" colours each page or frame, "first" the first that is no thumbnail.
        strict: refuse a photograph of which a part is missing.
        skip_existing: leave photographs that an earlier run with the same options has finished.

    Returns:
        What the photographs whose results are there now are called in colourings.json, and a sentence for each that
        could not be coloured.

    Raises:
        OSError: nothing can be written any more, as on a full disk; what was made before is whole and recorded.
    """
    count = best or (samples if diverse is None else diverse + 1)
    asked = {"samples": samples, "best": best, "diverse": diverse, "quality": quality}
    options = dict(drawing) | asked | dict(noted or {})
    several = {photo: find_pages(photo) for photo in photos} if pages == "all" else {}
    results = Results(
        photos, output, options=options, count=count, format=format, quality=quality, pages=several, strict=strict
    )
    jobs = [job for job in results.jobs if not (skip_existing and results.is_done(job))]
    problems: list[str] = []
    try:
        _colour(
            pipeline,
            results,
            jobs,
            problems,
            drawing=drawing,
            samples=samples,
            batch=batch,
            diverse=diverse,
            edits=edits,
        )
    except OSError:
        for problem in problems:  # what ends the run is told after them
            LOG.error("%s", problem)
        raise
    drawn = set(jobs)
    finished = [job for job in results.jobs if job not in drawn or job.key in results.made]
    try:
        results.write_contact_sheet(finished)
    except Exception as error:
        if ends_the_run(error):
            raise
        problems.append(f"{output / 'contact_sheet.png'} is not written: {reason(error)}.")
    for folder in {results.sheet(job).parent for job in results.jobs} | {output}:
        clear_unfinished(folder)
    return [job.key for job in finished], problems


def _colour(
    pipeline: Pipeline, results: Results, jobs: Sequence[Job], problems: list[str], *, drawing: Mapping[str, Any],
    samples: int, batch: int, diverse: int | None, edits: Edits | None,
) -> None:  # fmt: skip
    best = results.count if diverse is None else None
    with progress_bar() as progress, ThreadPoolExecutor(1) as writer:
        overall = progress.add_task("photographs", total=len(jobs), visible=len(jobs) > 1)
        task = progress.add_task("reading", total=None)
        writing: Future[None] | None = None
        for found in _read_ahead(results, jobs, max(1, batch // samples), best or samples, problems):
            name = found[0][0].photo.name if len(found) == 1 else f"{len(found)} photographs"

            def report(stage: str, done: int, total: int, name: str = name) -> None:
                progress.update(task, description=f"{name}: {stage}", completed=done, total=total)

            options = dict(drawing) | {"samples": samples, "best": best, "batch_size": batch, "progress": report}

            def draw(some: Sequence[tuple[Job, Photograph]], options: dict[str, Any] = options) -> list[Colorized]:
                return pipeline.colorize([photo.pixels for _, photo in some], [edits] if edits else None, **options)

            drawn, failed = draw_all(draw, found)
            problems += [f"{job.photo} is not coloured: {reason(error)}." for (job, _), error in failed]
            if writing is not None:
                writing.result()
            writing = writer.submit(_write, results, drawn, diverse, problems)
            progress.advance(overall, len(found))
        if writing is not None:
            writing.result()


def draw_all(
    draw: Callable[[Sequence[T]], list[Colorized]], photos: Sequence[T]
) -> tuple[list[tuple[T, Colorized]], list[tuple[T, Exception]]]:
    """What `draw` makes of photographs together, or where that fails of each alone; and those that fail alone.

    Raises:
        UserError: it is none of the photographs that is at fault.
    """
    try:
        return list(zip(photos, draw(photos), strict=True)), []
    except UserError:
        raise
    except Exception as error:
        if len(photos) == 1:
            return [], [(photos[0], error)]
    alone = [draw_all(draw, [photo]) for photo in photos]
    return [one for found, _ in alone for one in found], [one for _, failed in alone for one in failed]


def _read_ahead(results: Results, jobs: Sequence[Job], count: int, kept: int, problems: list[str]) -> Iterator[Found]:
    """The photographs that can be read, up to `count` or, with `kept` colourings of each, `ROOM` pixels at a time.

    The next ones are read meanwhile.
    """
    left = iter(jobs)

    def read() -> Found:
        found: Found = []
        pixels = 0
        for job in left:
            try:
                photo = results.read(job)
            except PhotoError as error:
                problems.append(str(error))
                continue
            except Exception as error:
                problems.append(f"{job.photo} is not coloured: {reason(error)}.")
                continue
            for note in photo.notes if job.page is None else ():
                LOG.warning("%s", f"{job.photo} {note}.")
            found.append((job, photo))
            pixels += kept * photo.pixels.shape[0] * photo.pixels.shape[1]
            if len(found) == count or pixels >= ROOM:
                break
        return found

    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read)
        while found := ahead.result():
            ahead = reader.submit(read)
            yield found


# What is wrong with one result's name alone.
_OF_ONE_FILE = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EINVAL)


def ends_the_run(error: Exception) -> bool:
    """Whether no other file can be written either, as on a full disk."""
    return isinstance(error, OSError) and error.errno not in (None, *_OF_ONE_FILE) and not isinstance(error, PhotoError)


def _write(
    results: Results,
    drawn: Sequence[tuple[tuple[Job, Photograph], Colorized]],
    diverse: int | None,
    problems: list[str],
) -> None:
    try:
        for (job, photo), one in drawn:
            try:
                if diverse is not None:
                    one = one.choose(choose_diverse(differences(one.images), one.ranking()[0], diverse))
                bits = [-log_prob for log_prob in one.log_prob]
                results.write(job, photo, one.images, one.gray, bits, one.samples)
            except PhotoError as error:  # what lies there now is no result
                problems.append(str(error))
                continue
            except Exception as error:
                if ends_the_run(error):
                    raise
                where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
                problems.append(f"{job.photo} is not coloured: {where}{reason(error)}.")
                continue
            LOG.info("%s", f"{job.photo} -> {results.sheet(job)}")
            if one.effective is not None:
                particles = results.options["particles"]
                LOG.info("  effective sample size: at least %.1f of %d particles", one.effective, particles)
    finally:
        results.save_record()
