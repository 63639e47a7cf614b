# SPDX-License-Identifier: Apache-2.0
"""Gives damaged files to everything that reads files: each gives a result or one clear sentence.

    python tests/fuzz.py --cases 10000 --seed 0

Images in eight formats, the configuration and the tensors of checkpoints, TensorFlow's bundles and TFRecords are made,
and mutated: bits flipped, parts cut out, repeated, zeroed, numbers made extreme, YAML values replaced by others. Case n
of a seed is the same every time. A case fails when the reader raises anything but the errors that a person can mend,
when its message is not one line, when it takes more than 10 s or 2 GB, or when the interpreter dies. Failing inputs are
kept in --keep. Prints what was done as one line of JSON.

The readers work in a forked process, which is killed and replaced where it hangs.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
import yaml
from PIL import Image, ImageCms

from coltran import checkpoint, networks
from coltran.checkpoint import CheckpointError
from coltran.errors import UserError
from coltran.image import PhotoError, load_photo
from coltran.original.load import load_tf_network
from coltran.original.records import Record, read_records, write_records
from coltran.photo import files
from tests import tf_bundle
from tests.tiny import colorizer_config, upsampler_config
from tests.tiny_training import whole_config

SECONDS, BYTES = 10, 2 << 30
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
VALUES = (None, True, 0, -1, 1, 3, 10**6, 2**31, 10**30, 0.5, float("nan"), float("inf"), "", "x", [], [1], [0, 0], {})


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Bytes with one to four kinds of damage; more often near the beginning, where headers are."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = int(len(out) * rng.random() ** rng.choice((1, 3, 6)))
        length = int(2 ** rng.uniform(0, 8))
        kind = rng.randrange(7)
        if kind == 0:
            for _ in range(rng.choice((1, 3, 20))):
                if out:
                    out[min(len(out) - 1, int(len(out) * rng.random() ** 2))] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del out[at:]
        elif kind == 2:
            del out[at : at + length]
        elif kind == 3:
            out[at:at] = out[at : at + length] * rng.choice((1, 50))
        elif kind == 4:
            out[at : at + length] = bytes(len(out[at : at + length]))
        elif kind == 5:
            out[at : at + length] = rng.randbytes(length)
        else:
            size = rng.choice((1, 2, 4, 8))
            number = rng.choice(EXTREMES) & (1 << 8 * size) - 1
            out[at : at + size] = number.to_bytes(size, rng.choice(("big", "little")))
    return bytes(out)


def mutate_yaml(data: bytes, rng: random.Random) -> bytes:
    """A YAML mapping with one to three values replaced, removed or renamed; or damaged as bytes."""
    if rng.random() < 0.3:
        return mutate(data, rng)
    values = yaml.safe_load(data)
    for _ in range(rng.choice((1, 1, 3))):
        node: Any = values
        while True:
            key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
            if isinstance(node[key], (dict, list)) and node[key] and rng.random() < 0.85:
                node = node[key]
                continue
            break
        kind = rng.randrange(4)
        if kind == 0 and isinstance(node, dict):
            del node[key]
        elif kind == 1 and isinstance(node, dict):
            node[f"{key}x"] = node.pop(key)
        elif kind == 2 and isinstance(node[key], int) and not isinstance(node[key], bool):
            node[key] = rng.choice((-1, 2, 1000)) * node[key] + rng.randrange(3)
        else:
            node[key] = copy.deepcopy(rng.choice(VALUES))
        if not values:
            break
    return yaml.safe_dump(values).encode()


def _images() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    made = {}
    rgb = Image.fromarray(rng.integers(0, 256, (24, 30, 3), dtype=np.uint8))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "an old photograph"
    for name, image, options in (
        ("jpeg", rgb, {"exif": exif.tobytes(), "icc_profile": profile}),
        ("png", rgb.convert("RGBA"), {"exif": exif.tobytes()}),
        ("png", rgb.convert("L").convert("I;16"), {}),
        ("png", rgb.quantize(16), {"transparency": 3}),
        ("gif", rgb.quantize(16), {}),
        ("webp", rgb, {}),
        ("tiff", rgb, {"compression": "tiff_lzw"}),
        ("tiff", rgb.convert("CMYK"), {}),
        ("bmp", rgb, {}),
        ("ppm", rgb, {}),
        ("tga", rgb, {"compression": "tga_rle"}),
    ):
        file = io.BytesIO()
        image.save(file, format=name.upper(), **options)
        made[f"{len(made)}.{name}"] = file.getvalue()
    return made


def make(folder: Path) -> dict[str, list[Path]]:
    """The files to mutate, by kind."""
    torch.manual_seed(0)
    for name, section in (("colorizer", colorizer_config(8, 8)), ("upsampler", upsampler_config("color_upsampler"))):
        state = ({"weights/x": torch.zeros(3)}, {"step": 7, "seed": 0})
        checkpoint.save(networks.build(section), folder / name, config=whole_config(), training=state)
    for name, data in _images().items():
        (folder / name).write_bytes(data)
    (folder / "tf").mkdir()
    network = networks.build(upsampler_config("spatial_upsampler", 8, 8))
    tf_bundle.write_bundle(folder / "tf" / "model-7", tf_bundle.tensors_of(network))
    image = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    write_records(folder / "gen0.tfrecords", [Record(image, 3), Record(255 - image, 4)])
    saved = [folder / "colorizer", folder / "upsampler"]
    return {
        "image": sorted(path for path in folder.iterdir() if path.stem.isdigit()),
        "configuration": [path / "config.yaml" for path in saved] + [path / "training.yaml" for path in saved],
        "tensors": [path / f"{name}.safetensors" for path in saved for name in ("model", "training")],
        "bundle": sorted((folder / "tf").iterdir()),
        "records": [folder / "gen0.tfrecords"],
    }


def _read_image(path: Path) -> None:
    load_photo(path)
    files.read(path)


def _read_checkpoint(path: Path) -> None:
    checkpoint.load(path.parent)
    checkpoint.load_step(path.parent)
    checkpoint.load_training(path.parent)


READERS: dict[str, Callable[[Path], Any]] = {
    "image": _read_image,
    "configuration": _read_checkpoint,
    "tensors": _read_checkpoint,
    "bundle": lambda path: load_tf_network(path.parent),
    "records": lambda path: list(read_records(path, (6, 5))),
}


def case(number: int, seed: int, made: dict[str, list[Path]], folder: Path) -> tuple[str, Path]:
    """Puts case `number` into a folder; returns its kind and the damaged file, with its neighbours whole."""
    rng = random.Random(f"{seed} {number}")
    kind = list(made)[number % len(made)]
    source = rng.choice(made[kind])
    shutil.rmtree(folder, ignore_errors=True)
    if kind in ("image", "records"):
        folder.mkdir()
    else:
        shutil.copytree(source.parent, folder)
    target = folder / source.name
    damage = mutate_yaml if source.suffix == ".yaml" else mutate
    target.write_bytes(damage(source.read_bytes(), rng))
    return kind, target


def judge(kind: str, path: Path) -> str:
    """What comes of reading a damaged file: "result", "sentence", or what is wrong."""
    try:
        READERS[kind](path)
    except (PhotoError, CheckpointError, UserError) as error:
        text = str(error)
        fine = text.strip() and "\n" not in text and text.isprintable() and len(text) < 5000
        return "sentence" if fine else f"no clear sentence: {text[:500]!r}"
    except BaseException:
        return traceback.format_exc(limit=-4)
    return "result"


def _work(cases: range, seed: int, made: dict[str, list[Path]], folder: Path, out: int) -> None:
    """Judges cases one after another and writes each verdict as a line."""
    warnings.simplefilter("ignore")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with os.fdopen(out, "w") as lines:
        for number in cases:
            kind, path = case(number, seed, made, folder)
            print(json.dumps([number, kind, judge(kind, path)]), file=lines, flush=True)


def judgements(cases: range, seed: int, made: dict[str, list[Path]], folder: Path) -> list[tuple[int, str, str]]:
    """The verdicts on all cases, those included that killed or hung the process that judged them."""
    found: list[tuple[int, str, str]] = []
    while len(found) < len(cases):
        left = cases[len(found) :]
        reader, writer = os.pipe()
        number = os.fork()
        if number == 0:
            os.close(reader)
            try:
                _work(left, seed, made, folder, writer)
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb", buffering=0) as lines:  # what a buffer holds, select does not see
            while select.select([lines], [], [], SECONDS)[0]:
                if not (line := lines.readline()):
                    break
                found.append(tuple(json.loads(line)))
            else:
                os.kill(number, signal.SIGKILL)
                found.append((cases[len(found)], list(made)[cases[len(found)] % len(made)], f"takes over {SECONDS} s"))
        status = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
        if len(found) < len(cases) and status not in (0, -signal.SIGKILL):
            found.append((cases[len(found)], list(made)[cases[len(found)] % len(made)], f"dies by signal {-status}"))
    return found


def main() -> int:
    """The program; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="how many (10000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first (0)")
    parser.add_argument("--seed", type=int, default=0, help="of the damage (0)")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="where failing inputs go (build/fuzz)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = range(options.first, options.first + options.cases)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "made").mkdir()
        made = make(Path(folder) / "made")
        found = judgements(cases, options.seed, made, Path(folder) / "case")
        counts = Counter(
            (kind, verdict if verdict in ("result", "sentence") else "failed") for _, kind, verdict in found
        )
        for number, kind, verdict in found:
            if verdict not in ("result", "sentence"):
                print(f"case {number}, {kind}: {verdict}", file=sys.stderr)
                options.keep.mkdir(parents=True, exist_ok=True)
                case(number, options.seed, made, options.keep / str(number))
    report = {
        kind: {verdict: counts[kind, verdict] for verdict in ("result", "sentence", "failed")} for kind in READERS
    }
    print(json.dumps({"seed": options.seed, "cases": len(found), **report}))
    return int(any(row["failed"] for row in report.values()))


if __name__ == "__main__":
    sys.exit(main())
