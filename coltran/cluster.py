# SPDX-License-Identifier: Apache-2.0
"""Colours any number of photographs with the machines of a Ray cluster: `python -m coltran.colorize ... --ray`.

Batches of names go through Ray Data to actors, each of which holds the networks, reads its photographs, colours them
and writes the results; rows for the manifest come back. The seed of a photograph comes from its name, so that no
result depends on the number of actors, on the order, or on what was done in an earlier run.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
import torch
from rich.progress import MofNCompleteColumn, TimeRemainingColumn

from coltran import cli
from coltran.album import draw_all, ends_the_run
from coltran.errors import UserError, reason
from coltran.files import WRITING
from coltran.image import PHOTO_SUFFIXES, PhotoError
from coltran.loading import from_pretrained
from coltran.photo import files
from coltran.photo.manifest import SCHEMA, Manifest
from coltran.photo.results import check_room, write_coloring
from coltran.pipeline import Colorized
from coltran.sampling import named_seed
from coltran.sampling.strips import batched

BLOCKS = 4000  # of photographs in a run, at most: what one of them takes of the driver's memory does not grow
SHOWN = 10  # photographs that failed, of which the program speaks


@dataclass(frozen=True)
class Job:
    """The options of a run, which every worker gets."""

    output: str
    drawing: Mapping[str, Any]  # options of `Pipeline.colorize`, the run's seed among them
    checkpoint: str | None
    device: str
    samples: int
    best: int  # of them, which are kept
    batch: int  # colourings that are drawn together
    format: str | None  # of `coltran.photo.files.FORMATS`; None takes each photograph's own
    quality: int

    def options(self) -> dict[str, Any]:
        """The options that a result depends on, for the manifest."""
        return {key: value for key, value in asdict(self).items() if key not in ("output", "device", "batch")}


def find_photos(named: Sequence[str], output: Path) -> tuple[dict[str, str], list[str]]:
    """The photographs of folders, files and lists, here or wherever fsspec reaches (s3://, gs://, ...).

    A list is a file that ends in .txt, a path on each line, or in .parquet, with a column `path`.

    Args:
        output: what lies in it is no photograph.

    Returns:
        For each photograph's path its name, which is that of its results without their number and suffix: the path
        within the named folder, or that in a list, or the name of the file; and a sentence for each name that stands
        for none.

    Raises:
        UserError: two photographs have one name.
    """
    found: dict[str, str] = {}
    problems = []
    for name in named:
        if Path(name).resolve() == output.resolve():
            raise UserError(f"The results cannot go into {name} itself: the next run would take them for photographs.")
        try:
            listed = dict(_list(name, output.resolve()))
        except (OSError, ValueError, ImportError, KeyError) as error:
            problems.append(f"{name} cannot be read: {error}.")
            continue
        if not listed:
            problems.append(f"{name} holds no photographs.")
        for path in [path for path in listed if "\\udc" in ascii(path)]:
            problems.append(f"{ascii(path)} has a name that is not UTF-8.")
            del listed[path]
        found |= {path: found.get(path, its) for path, its in listed.items()}
    owners: dict[str, str] = {}
    for path, its in found.items():
        if owners.setdefault(its, path) != path:
            raise UserError(f"{owners[its]} and {path} would have the same results, {its}-0: colour them apart.")
    return found, problems


def _list(name: str, output: Path) -> Iterator[tuple[str, str]]:
    if name.endswith(".txt"):
        with fsspec.open(name, "rt", encoding="utf-8-sig") as file:  # with the mark of Windows' editors or without
            yield from ((path, _inside(path)) for line in file if (path := line.strip()))
    elif name.endswith(".parquet"):
        with fsspec.open(name, "rb") as file:
            paths = pq.read_table(file, columns=["path"])["path"].to_pylist()
        if not all(isinstance(path, str) for path in paths):
            raise ValueError("its column path has values that are no text")
        yield from ((path, _inside(path)) for path in paths)
    else:
        system, root = fsspec.core.url_to_fs(name)
        local = "://" not in name
        if not system.exists(root):
            raise FileNotFoundError("it does not exist")
        if not system.isdir(root):
            yield name, PurePosixPath(root).name
            return
        for path in sorted(system.find(root)):
            file = PurePosixPath(path)
            hidden = file.name.startswith(".") or file.suffix.lower() not in PHOTO_SUFFIXES
            if not hidden and not (local and output in Path(path).resolve().parents):
                inside = str(file.relative_to(root))
                yield os.path.join(name, inside) if local else system.unstrip_protocol(path), inside


def _inside(path: str) -> str:
    """A listed path made relative, without `..`."""
    parts = PurePosixPath(path.split("://")[-1]).parts
    return "/".join(part for part in parts if part not in ("/", ".."))


def check_names(job: Job, name: str) -> None:
    """Raises PhotoError where a result's file name would be too long, or has characters that no file name can have."""
    try:
        Path(job.output, f"{PurePosixPath(name).name}-{job.best - 1}.jpeg").lstat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise PhotoError(f"The results of {name} cannot be written: {error.strerror}.") from error


class Worker:
    """A Ray actor: holds the networks, and colours batches of photographs."""

    def __init__(self, job: Job, threads: int) -> None:
        torch.set_num_threads(threads)
        self.job = job
        checkpoint = Path(job.checkpoint) if job.checkpoint else None
        self.pipeline = from_pretrained(checkpoint).to(cli.device(job.device))

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Colours the photographs of the columns `path` and `name`; returns rows of the manifest."""
        start = time.perf_counter()
        rows, read = [], []
        for path, name in zip(batch["path"].to_pylist(), batch["name"].to_pylist(), strict=True):
            seed = named_seed(self.job.drawing["seed"], path)
            row = {"path": path, "seed": seed}
            try:
                check_names(self.job, name)
                with open(path, "rb") if "://" not in path else fsspec.open(path, "rb") as file:
                    photo = files.read(path, file)
                check_room(photo, self.job.drawing, self.job.format or photo.format)
            except PhotoError as error:
                rows.append(row | {"error": str(error)})
            except Exception as error:  # the file systems that fsspec brings raise what they like
                rows.append(row | {"error": f"{path} cannot be read: {error}."})
            else:
                read.append((row, name, photo))
        drawn, failed = draw_all(self._draw, read)
        rows += [row | {"error": f"{row['path']} is not coloured: {reason(error)}."} for (row, _, _), error in failed]
        for (row, name, photo), results in drawn:
            try:
                rows += [row | result for result in self._write(name, photo, results, row["seed"])]
            except Exception as error:
                if ends_the_run(error):
                    raise
                rows.append(row | {"error": f"{row['path']} is not coloured: {reason(error)}."})
        seconds = (time.perf_counter() - start) / len(batch)
        return pa.Table.from_pylist([row | {"seconds": seconds} for row in rows], SCHEMA)

    def _draw(self, read: Sequence[tuple[dict[str, Any], str, files.Photograph]]) -> list[Colorized]:
        options = dict(self.job.drawing) | {"seed": [row["seed"] for row, _, _ in read]}
        options |= {"samples": self.job.samples, "best": self.job.best, "batch_size": self.job.batch}
        return self.pipeline.colorize([photo.pixels for _, _, photo in read], **options) if read else []

    def _write(self, name: str, photo: files.Photograph, results: Colorized, seed: int) -> Iterator[dict[str, Any]]:
        """Writes the best colourings of a photograph; what is particular to each."""
        format = self.job.format or photo.format
        for k, (image, log_prob, s) in enumerate(zip(results.images, results.log_prob, results.samples, strict=True)):
            file = f"{name}-{k}{files.FORMATS[format]}"
            path = Path(self.job.output, file)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_coloring(
                image, path, photo, dict(self.job.drawing) | {"seed": seed}, format=format,
                quality=self.job.quality, sample=s, bits=-log_prob,
            )  # fmt: skip
            yield {"file": file, "sample": s, "log_probability": log_prob}


def color_on_ray(
    photos: Mapping[str, str], job: Job, *, address: str = "local", actors: int | None = None,
    threads: int | None = None,
) -> list[str]:  # fmt: skip
    """Colours photographs that are not in the manifest of the output folder yet; returns a sentence for failures.

    Args:
        photos: as of `find_photos`.
        address: of a Ray cluster; "local" starts one on this machine, "auto" finds the one that it belongs to.
        actors: how many work at once; one for each GPU where None, or one a machine.
        threads: of each actor; where None, the machine's, shared by the actors on it.

    Raises:
        UserError: the cluster cannot be reached, or has not so many cores or GPUs; or the manifest is another's, or
            says that another photograph has results of the same name.
        OSError: a result cannot be written; what was made before is whole and in the manifest.
    """
    output = Path(job.output)
    manifest = Manifest(output, job.options(), photos)
    for path, name in photos.items():
        if (owner := manifest.owners.get(name, path)) != path:
            manifest.close()
            raise UserError(f"{path} would have the results that {owner} has in {output}: name another folder.")
    left = [(path, name) for path, name in photos.items() if path not in manifest.done]
    failed: list[str] = []
    try:
        with cli.progress_bar(MofNCompleteColumn(), TimeRemainingColumn()) as progress:
            task = progress.add_task("photographs", total=len(photos), completed=len(photos) - len(left))
            for rows in results(left, job, address, actors, threads) if left else ():
                manifest.add(rows)
                failed += [error for error in rows["error"].to_pylist() if error is not None]
                progress.advance(task, len(rows["path"].unique()))
    finally:
        for stale in output.rglob(f"{WRITING}*"):
            stale.unlink(missing_ok=True)
        manifest.close()
    return failed[:SHOWN] + ([f"{len(failed)} photographs failed: see {manifest.file}."] if len(failed) > SHOWN else [])


def results(
    left: Sequence[tuple[str, str]], job: Job, address: str, actors: int | None, threads: int | None
) -> Iterator[pa.Table]:
    """Yields rows of the manifest as workers finish.

    Args:
        left: paths and names of the photographs.
        job, address, actors, threads: as for `color_on_ray`, which says what is raised.
    """
    started = not ray.is_initialized()
    if started:
        _connect(address)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        actors, threads, gpus = _shares(actors, threads, job.device)
        together = max(1, job.batch // job.samples)
        size = together * max(1, len(left) // (together * BLOCKS))
        tables = [
            pa.table({"path": [path for path, _ in block], "name": [name for _, name in block]})
            for block in batched(left, size)
        ]
        found = ray.data.from_arrow(tables).map_batches(
            Worker,
            fn_constructor_args=(job, threads),
            batch_size=together,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(actors, len(tables))),
            num_cpus=threads,
            num_gpus=gpus,
        )
        yield from found.iter_batches(batch_size=None, batch_format="pyarrow")
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, (OSError, UserError, ValueError, torch.OutOfMemoryError)):
            raise error.cause from None
        # Ray Data passes on what an actor raised as text alone.
        found = re.search(r"OSError: (.*No space left on device.*)", str(error))
        if isinstance(error.cause, ray.exceptions.UserCodeException) and found:
            raise OSError(found[1]) from None
        raise
    finally:
        if started:
            ray.shutdown()


def _connect(address: str) -> None:
    """Connects to a Ray cluster.

    Raises:
        UserError: there is none.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"The Ray cluster {address} cannot be reached: {str(error).splitlines()[0]}") from error


def _shares(actors: int | None, threads: int | None, device: str) -> tuple[int, int, int]:
    """Actors, threads of each, and GPUs of each.

    Raises:
        UserError: the cluster has not so many.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(device.startswith("cuda"))
    if gpus and not any(machine.get("GPU") for machine in machines):
        raise UserError("The Ray cluster has no GPU for --device=cuda.")
    machines = [machine for machine in machines if machine.get("CPU", 0) >= 1 and machine.get("GPU", 0) >= gpus]
    units = [int(machine.get("GPU", 0)) if gpus else 1 for machine in machines]
    if not units:
        raise UserError("The Ray cluster has no machine with a core for an actor.")
    here = [-(-actors // len(machines))] * len(machines) if actors else units  # on each machine, at most
    actors = actors or sum(units)
    threads = threads or max(1, min(int(machine["CPU"]) // n for machine, n in zip(machines, here, strict=True)))
    places = sum(
        min(int(machine.get("CPU", 0)) // threads, int(machine.get("GPU", 0)) if gpus else actors)
        for machine in machines
    )
    if places < actors:
        raise UserError(
            f"The Ray cluster has room for {places} actors of {threads} cores{' and a GPU' * gpus}, not for {actors}."
        )
    return actors, threads, gpus
