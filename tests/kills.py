# SPDX-License-Identifier: Apache-2.0
"""Kills programs at random moments: what is there is whole each time, and the resumed result that of no kill at all.

    python tests/kills.py --kills 1000 --seed 0

A training and a run over a folder of photographs are started, killed after a random time, and started again, until they
finish; then again from nothing, until so many kills were made, half of each. A third of the starts have a slow disk
(every file takes a while before and after it is moved into place, where a kill does most harm), a third a full one (no
file can grow beyond a random size). Prints what was done as one line of JSON.

The time is that of the processor, so that the moments are spread over the work on a busy machine too, and the kill is
the kernel's: SIGPROF, which nothing handles, ends a process as SIGKILL does. Every start is a fork of this process,
which has imported everything, so a kill costs little more than its work.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from PIL import Image

from coltran import checkpoint, colorize, networks
from coltran.files import WRITING
from coltran.train import train
from coltran_kernels.cpu import native
from tests.tiny import colorizer_config
from tests.tiny_training import whole_config, write_photos

DISKS = ("fast", "slow", "full")
STEPS = 8
ENDED, FULL, BROKEN, KILLED = 0, 3, 4, -signal.SIGPROF  # exit codes of a start
PATIENCE = 600  # seconds that a start may take by the clock


class Broken(Exception):
    """Something is not whole, or not what it should be."""


def train_tiny(folder: Path) -> None:
    """A training of a few steps, with a checkpoint after each."""
    config = whole_config(dropout=0.2, max_train_steps=STEPS)
    train(config, folder / "log", folder / "photos", steps_per_summaries=1, save_every_steps=1, workers=0)


def colour_folder(folder: Path) -> None:
    """A run over a folder, one photograph after another."""
    names = [folder / "photos", "-o", folder / "out", "--checkpoint", folder / "networks"]
    options = ["--stage", "coarse", "--samples", "2", "--batch", "2", "--skip-existing", "--format", "png"]
    if colorize.main([*map(str, names), *options]):
        raise Broken("a photograph was not coloured")


def check_training(folder: Path) -> None:
    """Every checkpoint can be read, and every line of the summaries but a torn last one."""
    for path in checkpoint.numbered(folder / "log") if (folder / "log").is_dir() else []:
        checkpoint.load(path)
        checkpoint.load_training(path)
    summaries = folder / "log" / "train.jsonl"
    for line in summaries.read_text().splitlines(keepends=True) if summaries.exists() else []:
        if line.endswith("\n"):
            json.loads(line)


def check_folder(folder: Path) -> None:
    """Every result is a whole image, and the record is JSON."""
    for path in (folder / "out").glob("*"):
        if path.name.startswith(WRITING):
            continue
        if path.suffix == ".json":
            json.loads(path.read_text())
        else:
            with Image.open(path) as image:
                image.load()


def result_of_training(folder: Path) -> dict[str, Any]:
    """The last checkpoint's bytes and all losses."""
    last = checkpoint.find(folder / "log")
    lines = [json.loads(line) for line in (folder / "log" / "train.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["loss"], line["total_loss"]) for line in lines]
    left = sorted(path.name for path in (folder / "log").iterdir())
    return {path.name: path.read_bytes() for path in last.iterdir()} | {"losses": losses, "files": left}


def result_of_folder(folder: Path) -> dict[str, Any]:
    """The bytes of every file; the record's photographs and networks without their folder."""
    found: dict[str, Any] = {path.name: path.read_bytes() for path in (folder / "out").iterdir()}
    record = json.loads(found.pop("colourings.json"))
    return found | {Path(photo).name: entry | {"checkpoint": None} for photo, entry in record.items()}


WORKS: dict[str, tuple[Callable[[Path], None], Callable[[Path], None], Callable[[Path], dict[str, Any]]]] = {
    "training": (train_tiny, check_training, result_of_training),
    "folder": (colour_folder, check_folder, result_of_folder),
}


def prepare(folder: Path) -> Path:
    """Photographs and networks to work on."""
    write_photos(folder / "photos", 4)
    torch.manual_seed(0)
    checkpoint.save(networks.build(colorizer_config(8, 8)), folder / "networks" / "colorizer")
    return folder


def slow_disk(pause: float) -> None:
    """From now on, moving a file into its place takes a while of the processor's time, by which starts are killed."""

    def idle() -> None:
        end = time.process_time() + pause
        while time.process_time() < end:
            pass

    for name in ("replace", "rename"):
        move = getattr(os, name)

        def slowly(*args: Any, move: Callable[..., None] = move, **options: Any) -> None:
            idle()
            move(*args, **options)
            idle()

        setattr(os, name, slowly)


def start(work: Callable[[], Any], *, seconds: float = 0, disk: str = "fast", room: int = 0, errors: Path) -> int:
    """Forks a process that works on such a disk and is killed after so many seconds of the processor; its exit code.

    Args:
        seconds: 0 lets it finish.
        room: bytes that a file may have on a full disk.
        errors: a file for what went wrong.

    Raises:
        Broken: it hangs.
    """
    if number := os.fork():
        return wait(number)
    code = BROKEN
    try:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        if disk == "slow":
            slow_disk(0.004)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            if disk == "full":
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
            work()
        code = ENDED
    except OSError as error:
        code = FULL if disk == "full" else BROKEN
        if code == BROKEN:
            errors.write_text(f"{error!r}\n{traceback.format_exc()}")
    except BaseException:
        errors.write_text(traceback.format_exc())
    finally:
        os._exit(code)


def wait(number: int) -> int:
    """The exit code of a process; raises Broken where it does not end."""
    process = os.pidfd_open(number)
    ended, _, _ = select.select([process], [], [], PATIENCE)
    os.close(process)
    if not ended:
        os.kill(number, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
    if not ended:
        raise Broken(f"a start did not end within {PATIENCE} s")
    return code


def processor_seconds() -> float:
    """Of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def torment(name: str, kills: int, rng: random.Random, folder: Path) -> dict[str, int]:
    """Kills a work so many times, from nothing again whenever it has finished.

    Raises:
        Broken: something is not whole, or a resumed result is not that of the work done in one go.
    """
    work, check, result_of = WORKS[name]
    errors = folder / "errors.txt"

    def run(here: Path, **how: Any) -> int:
        code = start(lambda: work(here), errors=errors, **how)
        if code not in (KILLED, ENDED, FULL):
            text = errors.read_text() if errors.exists() else ""
            raise Broken(f"{name} ended with exit code {code}: {text}")
        return code

    first = prepare(folder / "first")
    run(first)
    check(first)  # what is loaded only now would make the first starts slower than those after them
    before = processor_seconds()
    whole = prepare(folder / "whole")
    run(whole)
    longest = processor_seconds() - before
    expected = result_of(whole)
    done = {"kills": 0, "full disks": 0, "finished": 0}
    while done["kills"] < kills:
        here = prepare(folder / f"{name}-{done['finished']}")
        code = KILLED
        for attempt in range(1000):
            disk = rng.choice(DISKS) if attempt < 20 else "fast"  # or it might never finish
            seconds = rng.uniform(0, longest) if attempt < 20 else 0
            code = run(here, seconds=seconds, disk=disk, room=int(10 ** rng.uniform(1, 5)))
            done["kills"] += code == KILLED
            done["full disks"] += code == FULL
            try:
                check(here)
            except Exception as error:
                raise Broken(f"after attempt {attempt} on a {disk} disk: {error!r}") from error
            if code == ENDED or done["kills"] >= kills:
                break
        if code != ENDED:
            run(here)
        found = result_of(here)
        if differing := [key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)]:
            raise Broken(f"{here}: the resumed result differs in {', '.join(sorted(differing))}")
        done["finished"] += 1
        if sys.stderr.isatty():
            print(f"\r{name}: {done['kills']} of {kills} kills ", end="", file=sys.stderr, flush=True)
    return done


def main() -> int:
    """The program; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000, help="all in all (1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and disks (0)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {"seed": options.seed}
    with tempfile.TemporaryDirectory() as folder:
        errors = Path(folder) / "errors.txt"
        start(native.why_not, errors=errors)  # built once, where it is not yet, rather than in every start
        for name in WORKS:
            (Path(folder) / name).mkdir()
            rng = random.Random(f"{options.seed} {name}")
            try:
                report[name] = torment(name, -(-options.kills // len(WORKS)), rng, Path(folder) / name)
            except Broken as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 1
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
