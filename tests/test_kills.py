# SPDX-License-Identifier: Apache-2.0
"""Programs killed at random moments: what is there is whole each time, and the resumed result that of no kill at all.

    make kills, or: pytest tests/test_kills.py --times 84 --seed 0

A training and a run over a folder of photographs are started, killed after a random time, and started again, until they
finish; then again from nothing, until so many kills were made. A third of the starts have a slow disk (every file takes
a while before and after it is moved into place, where a kill does most harm), a third a full one (no file can grow
beyond a random size).

The time is that of the processor, so that the moments are spread over the work on a busy machine too, and the kill is
the kernel's: SIGPROF, which nothing handles, ends a process as SIGKILL does.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from coltran import checkpoint, colorize, networks
from coltran.files import WRITING
from coltran.train import train
from tests.disks import full_disk
from tests.forked import run_forked
from tests.tiny import colorizer_config
from tests.tiny_training import whole_config, write_photos

KILLS = 6
ENDED, FULL, KILLED = 0, 3, -signal.SIGPROF  # exit codes of a start


def train_tiny(folder: Path) -> None:
    """A training of a few steps, with a checkpoint after each."""
    config = whole_config(dropout=0.2, max_train_steps=8)
    train(config, folder / "log", folder / "photos", steps_per_summaries=1, save_every_steps=1, workers=0)


def check_training(folder: Path) -> None:
    """Every checkpoint can be read, and every line of the summaries but a torn last one."""
    for path in checkpoint.numbered(folder / "log") if (folder / "log").is_dir() else []:
        checkpoint.load(path)
        checkpoint.load_training(path)
    for summaries in folder.glob("log/train.jsonl"):
        for line in summaries.read_text().splitlines(keepends=True):
            assert not line.endswith("\n") or json.loads(line)


def result_of_training(folder: Path) -> dict[str, Any]:
    """The last checkpoint's bytes, all losses and the names of what is there."""
    last = checkpoint.find(folder / "log")
    lines = [json.loads(line) for line in (folder / "log" / "train.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["loss"], line["total_loss"]) for line in lines]
    left = sorted(path.name for path in (folder / "log").iterdir())
    return {path.name: path.read_bytes() for path in last.iterdir()} | {"losses": losses, "files": left}


def colour_folder(folder: Path) -> None:
    """A run over a folder, one photograph after another."""
    names = [folder / "photos", "-o", folder / "out", "--checkpoint", folder / "networks"]
    options = ["--stage", "coarse", "--samples", "2", "--batch", "2", "--skip-existing", "--format", "png"]
    assert colorize.main([*map(str, names), *options]) == 0


def check_folder(folder: Path) -> None:
    """Every result is a whole image, and the record is JSON."""
    for path in (folder / "out").glob("*"):
        if path.suffix == ".json" and not path.name.startswith(WRITING):
            json.loads(path.read_text())
        elif not path.name.startswith(WRITING):
            with Image.open(path) as image:
                image.load()


def result_of_folder(folder: Path) -> dict[str, Any]:
    """The bytes of every file; the record's photographs and networks without their folder."""
    found: dict[str, Any] = {path.name: path.read_bytes() for path in (folder / "out").iterdir()}
    record = json.loads(found.pop("colourings.json"))
    return found | {Path(photo).name: entry | {"checkpoint": None} for photo, entry in record.items()}


def prepare(folder: Path) -> Path:
    """Photographs and networks to work on."""
    write_photos(folder / "photos", 4)
    torch.manual_seed(0)
    checkpoint.save(networks.build(colorizer_config(8, 8)), folder / "networks" / "colorizer")
    return folder


def slowly(move: Callable[..., None]) -> Callable[..., None]:
    """Moving a file into its place takes a while of the processor's time, by which starts are killed."""

    def idle() -> None:
        end = time.process_time() + 0.004
        while time.process_time() < end:
            pass

    def moved(*args: Any, **options: Any) -> None:
        idle()
        move(*args, **options)
        idle()

    return moved


def start(work: Callable[[Path], None], folder: Path, *, seconds: float = 0, disk: str = "fast", room: int = 0) -> int:
    """Works in a process of its own, killed after so many of its seconds, on such a disk; its exit code.

    Args:
        seconds: 0 lets it finish.
        room: bytes that a file may have on a full disk.
    """

    def begin() -> int:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        if disk == "slow":
            os.replace, os.rename = slowly(os.replace), slowly(os.rename)
        if disk != "full":
            work(folder)
            return ENDED
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            with full_disk(room):
                work(folder)
        except OSError:
            return FULL
        return ENDED

    (ended,) = run_forked([begin], folder / "said", 600)
    assert ended.code in (KILLED, ENDED, FULL), ended.said
    return ended.code


def processor_seconds() -> float:
    """Of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(
    ("work", "check", "result_of"),
    [(train_tiny, check_training, result_of_training), (colour_folder, check_folder, result_of_folder)],
    ids=["training", "folder"],
)
def test_killed_programs_leave_whole_files_and_resume_to_the_same_result(work, check, result_of, tmp_path, times, seed):
    rng = random.Random(f"{seed} {work.__name__}")
    work(prepare(tmp_path / "whole"))  # here, so that starts find everything imported and the kernels built
    before, expected = processor_seconds(), result_of(tmp_path / "whole")
    assert start(work, prepare(tmp_path / "first")) == ENDED
    longest = processor_seconds() - before
    check(tmp_path / "first")
    kills = runs = 0
    while kills < KILLS * times:
        here, code = prepare(tmp_path / f"run-{runs}"), KILLED
        for _ in range(20):  # after which it is to finish
            disk = rng.choice(("fast", "slow", "full"))
            code = start(work, here, seconds=rng.uniform(0, longest), disk=disk, room=int(10 ** rng.uniform(1, 5)))
            check(here)
            kills += code == KILLED
            if code == ENDED or kills == KILLS * times:
                break
        assert code == ENDED or start(work, here) == ENDED
        assert result_of(here) == expected
        runs += 1
