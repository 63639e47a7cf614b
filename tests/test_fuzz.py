# SPDX-License-Identifier: Apache-2.0
"""Damaged files, given to everything that reads files, give a result or one clear sentence.

    make fuzz, or: pytest tests/test_fuzz.py --times 40 --seed 0

Images in eight formats, the configuration and the tensors of checkpoints, TensorFlow's bundles and TFRecords are made,
and mutated: bits flipped, parts cut out, repeated, zeroed, numbers made extreme, YAML values replaced by others. Case n
of a seed is the same every time. A case fails when the reader raises anything but the errors that a person can mend,
when its message is not one line, when it takes more than 10 s or 2 GB, or when the interpreter dies.
"""

from __future__ import annotations

import copy
import functools
import json
import random
import resource
import shutil
import signal
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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
from tests.forked import run_forked
from tests.tiny import colorizer_config, upsampler_config
from tests.tiny_training import whole_config

CASES, SECONDS, BYTES = 50, 10, 2 << 30
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
VALUES = (None, True, 0, -1, 1, 3, 10**6, 2**31, 10**30, 0.5, float("nan"), float("inf"), "", "x", [], [1], [0, 0], {})


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Bytes with one to four kinds of damage; more often near the beginning, where headers are."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = int(len(out) * rng.random() ** rng.choice((1, 3, 6)))
        length = int(2 ** rng.uniform(0, 8))
        part, size = bytes(out[at : at + length]), rng.choice((1, 2, 4, 8))
        number = rng.choice(EXTREMES) & (1 << 8 * size) - 1
        kind = rng.randrange(7)
        if kind == 0:
            for _ in range(rng.choice((1, 3, 20)) if out else 0):
                out[int(len(out) * rng.random() ** 2)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del out[at:]
        elif kind == 2:
            out[at : at + size] = number.to_bytes(size, rng.choice(("big", "little")))
        else:
            repeated = part * rng.choice((2, 51))
            out[at : at + length] = (b"", repeated, bytes(len(part)), rng.randbytes(length))[kind - 3]
    return bytes(out)


def mutate_yaml(data: bytes, rng: random.Random) -> bytes:
    """A YAML mapping with one to three values replaced, removed or renamed; or damaged as bytes."""
    if rng.random() < 0.3:
        return mutate(data, rng)
    values = yaml.safe_load(data)
    for _ in range(rng.choice((1, 1, 3)) if values else 0):
        node: Any = values
        while True:
            key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
            if not isinstance(node[key], (dict, list)) or not node[key] or rng.random() > 0.85:
                break
            node = node[key]
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


def _write_images(folder: Path) -> None:
    folder.mkdir()
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "an old photograph"
    for n, (name, image, options) in enumerate((
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
    )):  # fmt: skip
        image.save(folder / f"{n}.{name}", **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """The files to mutate, by kind; all of them can be read."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    saved = [folder / "colorizer", folder / "upsampler"]
    for path, section in zip(saved, (colorizer_config(8, 8), upsampler_config("color_upsampler")), strict=True):
        state = ({"weights/x": torch.zeros(3)}, {"step": 7, "seed": 0})
        checkpoint.save(networks.build(section), path, config=whole_config(), training=state)
    _write_images(folder / "images")
    network = networks.build(upsampler_config("spatial_upsampler", 8, 8))
    tf_bundle.write_bundle(folder / "tf" / "model-7", tf_bundle.tensors_of(network))
    image = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    (folder / "records").mkdir()
    write_records(folder / "records" / "gen0.tfrecords", [Record(image, 3), Record(255 - image, 4)])
    found = {
        "image": sorted((folder / "images").iterdir()),
        "configuration": [path / f"{name}.yaml" for path in saved for name in ("config", "training")],
        "tensors": [path / f"{name}.safetensors" for path in saved for name in ("model", "training")],
        "bundle": sorted((folder / "tf").iterdir()),
        "records": [folder / "records" / "gen0.tfrecords"],
    }
    assert {judge(kind, path) for kind, paths in found.items() for path in paths} == {"result"}
    return found


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


def judge(kind: str, path: Path) -> str:
    """What comes of reading a file: "result", "sentence", or what is wrong."""
    try:
        READERS[kind](path)
    except (PhotoError, CheckpointError, UserError) as error:
        text = str(error)
        fine = text.strip() and "\n" not in text and text.isprintable() and len(text) < 5000
        return "sentence" if fine else f"no clear sentence: {text[:500]!r}"
    except BaseException:
        return traceback.format_exc(limit=-4)
    return "result"


def _judge_cases(kind: str, sources: list[Path], cases: range, seed: int, folder: Path) -> None:
    """Damages and judges one file after another, and adds each verdict to `verdicts.txt` as a line."""
    warnings.simplefilter("ignore")
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in cases:
        rng = random.Random(f"{seed} {kind} {number}")
        source = rng.choice(sources)
        case = folder / str(number)
        shutil.copytree(source.parent, case)
        damage = mutate_yaml if source.suffix == ".yaml" else mutate
        (case / source.name).write_bytes(damage(source.read_bytes(), rng))
        signal.alarm(SECONDS)
        verdict = judge(kind, case / source.name)
        signal.alarm(0)
        with open(folder / "verdicts.txt", "a") as lines:
            print(json.dumps(verdict), file=lines)
        if verdict in ("result", "sentence"):
            shutil.rmtree(case)


def judgements(kind: str, sources: list[Path], count: int, seed: int, folder: Path) -> list[str]:
    """The verdicts on all cases, those included that end or hang the process that judges them, which another follows.

    The files of those that fail stay in the folder.
    """
    verdicts = folder / "verdicts.txt"
    verdicts.touch()
    while (done := len(verdicts.read_text().splitlines())) < count:
        work = functools.partial(_judge_cases, kind, sources, range(done, count), seed, folder)
        (ended,) = run_forked([work], folder / "said", 1e5)
        if ended.code:
            reason = f"takes over {SECONDS} s" if ended.code == -signal.SIGALRM else f"ends with {ended}"
            with verdicts.open("a") as lines:
                print(json.dumps(reason), file=lines)
    return [json.loads(line) for line in verdicts.read_text().splitlines()]


@pytest.mark.parametrize("kind", READERS)
def test_damaged_files_give_a_result_or_a_sentence(kind, made, tmp_path, times, seed):
    found = judgements(kind, made[kind], CASES * times, seed, tmp_path)
    assert not {n: verdict for n, verdict in enumerate(found) if verdict not in ("result", "sentence")}
    assert found.count("sentence") > CASES * times / 10
