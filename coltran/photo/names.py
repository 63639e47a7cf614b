# SPDX-License-Identifier: Apache-2.0
"""What the results of each photograph are called, so that those of two photographs never have one name.

A photograph's results have its own name, in the subfolder that it has in the named folder. Where another photograph has
that name, in this run or, by colourings.json, in an earlier one, a number is added; and a photograph that has results
already finds them again.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

RECORD = "colourings.json"


@dataclass(frozen=True)
class Job:
    """One photograph of a run, or one page of it."""

    photo: Path
    name: str  # what the names of its results begin with, in the output folder
    key: str = ""  # in colourings.json
    source: str = ""  # where it is, as seen from the output folder
    page: int | None = None  # from 0 on; None is the first that is no thumbnail


def name_results(
    photos: Mapping[Path, PurePath],
    record: Mapping[str, Any] | None = None,
    pages: Mapping[Path, Sequence[int]] | None = None,
    output: Path = Path(),
) -> list[Job]:
    """For each photograph what its results' names begin with.

    Names that differ in case only count as the same, as they are on some file systems.

    Args:
        photos: and the subfolder of each.
        record: colourings.json of earlier runs into the same folder.
        pages: of photographs of which each page is coloured: their numbers, from 0 on.
        output: that folder.
    """
    places = partial(_place, output.resolve())
    wanted = list(_wanted(photos, pages or {}))
    known = {source: (key, said) for key, said in (record or {}).items() for source in [_source(key, said)]}
    ours = {places(photo, page) for photo, page, _ in wanted}
    names: dict[int, str] = {}
    for k, (photo, page, desired) in enumerate(wanted):
        _, said = known.get(places(photo, page), ("", None))
        if said is None and _key(photo, page) in known:  # of an earlier version, which told no more
            ours.add(_key(photo, page))
            _, said = known[_key(photo, page)]
        name = recorded_name(said)
        if name is not None and PurePath(name).parent == PurePath(desired).parent:
            names[k] = name
    taken = {name.casefold() for name in names.values()}
    others = {
        name.casefold(): (source, said)
        for source, (_, said) in known.items()
        if source not in ours and (name := recorded_name(said)) is not None
    }
    for k, (photo, _, desired) in enumerate(wanted):
        if k in names:
            continue
        name, number = desired, 1
        while name.casefold() in taken or not _is_free(others.get(name.casefold()), photo, output):
            number += 1
            name = f"{desired}_{number}"
        names[k] = name
        taken.add(name.casefold())
    used = {key for key, said in (record or {}).items() if _source(key, said) not in ours}
    jobs = []
    for k, (photo, page, _) in enumerate(wanted):
        key = _key(photo, page)
        jobs.append(Job(photo, names[k], places(photo, page) if key in used else key, places(photo, page), page))
    return jobs


def _wanted(
    photos: Mapping[Path, PurePath], pages: Mapping[Path, Sequence[int]]
) -> Iterator[tuple[Path, int | None, str]]:
    for photo, folder in photos.items():
        name = (folder / photo.stem).as_posix()
        its = pages.get(photo, ())
        if len(its) < 2:
            yield photo, None, name
        else:
            yield from ((photo, page, f"{name}-p{number}") for number, page in enumerate(its, 1))


def _key(photo: Path, page: int | None) -> str:
    return str(photo) if page is None else f"{photo}#{page + 1}"


def _place(output: Path, photo: Path, page: int | None) -> str:
    try:
        return _key(Path(os.path.relpath(photo.resolve(), output)), page)
    except ValueError:  # on another drive of Windows
        return _key(photo.resolve(), page)


def _source(key: str, said: object) -> str:
    """Where a photograph of colourings.json is; of earlier versions, what it was called."""
    found = said.get("source") if isinstance(said, dict) else None
    return found if isinstance(found, str) else key


def _is_free(owner: tuple[str, object] | None, photo: Path, output: Path) -> bool:
    """Whether a photograph may have a name that another has: where it is the same, which was moved."""
    if owner is None:
        return True
    source, said = owner
    digest = said.get("sha256") if isinstance(said, dict) else None
    moved = not (output / re.sub(r"#\d+$", "", source)).exists()
    return moved and digest is not None and digest == digest_of(photo)


def digest_of(file: Path) -> str:
    """SHA-256 of a file; empty where it cannot be read."""
    try:
        with open(file, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return ""


def recorded_files(said: object) -> list[str]:
    """The files that the record of a photograph names."""
    entries = said.get("colourings") if isinstance(said, dict) else None
    return [str(entry.get("file")) for entry in entries or () if isinstance(entry, dict)]


def recorded_name(said: object) -> str | None:
    """What the names of the files begin with that the record of a photograph names."""
    return next((re.sub(r"-\d+\.\w+$", "", file) for file in recorded_files(said)), None)
