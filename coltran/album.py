# SPDX-License-Identifier: Apache-2.0
"""Colours many photographs: several are drawn together, while the next ones are read and those before are written."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from coltran.cli import progress_bar
from coltran.console import LOG
from coltran.files import clear_unfinished
from coltran.image import PhotoError, list_photos
from coltran.photo.files import Photograph
from coltran.photo.hints import Wishes
from coltran.photo.results import EarlierResults, Job, Results
from coltran.photo.variety import choose_diverse, differences
from coltran.pipeline import Colorized, Pipeline

ROOM = 1 << 26  # pixels of colourings that are made together; the next and the last ones take memory as well


def find_photos(named: Sequence[str], output: Path | None, *, colourings: bool = False) -> tuple[list[Path], list[str]]:
    """The photographs to colour, each once, and a sentence for each name that stands for none.

    Earlier results are no photographs: when a named folder contains the output folder, that is left out, and when it is
    that folder or in it, what is a result; with `colourings` only sheets and maps, so that colourings can be scored.
    """
    photos: dict[Path, None] = {}
    problems = []
    earlier = EarlierResults(output) if output is not None else None
    for name in named:
        try:
            listed = list_photos([name])
        except PhotoError as error:
            problems.append(str(error))
            continue
        if output is not None and earlier is not None and Path(name).is_dir():
            folder, place = Path(name).resolve(), output.resolve()
            if folder in place.parents:
                listed = [photo for photo in listed if place not in photo.resolve().parents]
            elif folder == place or place in folder.parents:
                listed = [p for p in listed if not (earlier.is_picture(p) if colourings else p in earlier)]
            if not listed:
                problems.append(f"The folder {name} holds no photographs but earlier results.")
        photos.update(dict.fromkeys(listed))
    return list(photos), problems


def colour_album(
    pipeline: Pipeline,
    photos: Sequence[Path],
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
    wishes: Wishes | None = None,
    noted: Mapping[str, Any] | None = None,
) -> tuple[list[Path], list[str]]:
    """Colours photographs into a folder.

    Args:
        output: the folder, which exists.
        drawing: options of `Pipeline.colour`, `seed` among them.
        samples, best: colourings a photograph, and how many of them are kept: all where None.
        diverse: keep the likeliest and so many that differ most from it and from each other instead.
        wishes: what is imposed, where there is one photograph.
        noted: more for colourings.json to say of each photograph.
        batch: colourings that are drawn together.
        format, quality: see `coltran.photo.results.Results`.
        skip_existing: leave photographs that an earlier run with the same options has finished.

    Returns:
        The photographs whose results are there now, and a sentence for each that could not be coloured.

    Raises:
        OSError: nothing can be written any more, as on a full disk; what was made before is whole and recorded.
    """
    count = best or (samples if diverse is None else diverse + 1)
    asked = {"samples": samples, "best": best, "diverse": diverse, "quality": quality}
    options = dict(drawing) | asked | dict(noted or {})
    results = Results(photos, output, options=options, count=count, format=format, quality=quality)
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
            wishes=wishes,
        )
    except OSError:
        for problem in problems:  # what ends the run is told after them
            LOG.error("%s", problem)
        raise
    drawn = set(jobs)
    finished = [job for job in results.jobs if job not in drawn or str(job.photo) in results.made]
    results.write_contact_sheet(finished)
    clear_unfinished(output)
    return [job.photo for job in finished], problems


def _colour(
    pipeline: Pipeline, results: Results, jobs: Sequence[Job], problems: list[str], *, drawing: Mapping[str, Any],
    samples: int, batch: int, diverse: int | None, wishes: Wishes | None,
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

            images = [photo.pixels for _, photo in found]
            coloured = pipeline.colour(
                images, [wishes] if wishes else None, samples=samples, best=best, batch_size=batch, progress=report,
                **drawing,
            )  # fmt: skip
            if writing is not None:
                writing.result()
            writing = writer.submit(_write, results, found, coloured, diverse, problems)
            progress.advance(overall, len(found))
        if writing is not None:
            writing.result()


def _read_ahead(
    results: Results, jobs: Sequence[Job], count: int, kept: int, problems: list[str]
) -> Iterator[list[tuple[Job, Photograph]]]:
    """The photographs that can be read, up to `count` or, with `kept` colourings of each, `ROOM` pixels at a time.

    The next ones are read meanwhile.
    """
    left = iter(jobs)

    def read() -> list[tuple[Job, Photograph]]:
        found, pixels = [], 0
        for job in left:
            try:
                photo = results.read(job)
            except PhotoError as error:
                problems.append(str(error))
                continue
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
_OF_ONE_FILE = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EINVAL)


def _write(
    results: Results,
    found: Sequence[tuple[Job, Photograph]],
    coloured: Sequence[Colorized],
    diverse: int | None,
    problems: list[str],
) -> None:
    try:
        for (job, photo), one in zip(found, coloured, strict=True):
            if diverse is not None:
                likeliest = int(np.argmax(one.log_prob))
                one = one.choose(choose_diverse(differences(one.images), likeliest, diverse))
            bits = [-log_prob for log_prob in one.log_prob]
            try:
                results.write(job, photo, one.images, one.gray, bits, one.samples)
            except PhotoError as error:  # what lies there now is no result
                problems.append(str(error))
                continue
            except OSError as error:
                if error.errno not in _OF_ONE_FILE:
                    raise
                problems.append(f"{job.photo} is not coloured: {error.filename}: {error.strerror}.")
                continue
            LOG.info("%s", f"{job.photo} -> {results.sheet(job)}")
            if one.effective is not None:
                particles = results.options["particles"]
                LOG.info("  effective sample size: at least %.1f of %d particles", one.effective, particles)
    finally:
        results.save_record()
