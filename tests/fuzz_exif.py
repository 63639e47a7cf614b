# SPDX-License-Identifier: Apache-2.0
"""Photographs with random EXIF, and whether every program takes them: none sideways, none lost, none ending a run.

Each photograph has a directory of tags whose types, counts and values are drawn, most without sense: offsets beyond the
end or into the directory itself, directories that point to each other, counts of millions. Among them is one valid
orientation. The carriers are JPEG, PNG, WebP, TIFF and BigTIFF, in both byte orders. `coltran.colorize`, `score`,
`custom_colorize`, `evaluate`, a training and the page read all of them, with networks small enough for that.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import struct
import zlib
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from coltran import colorize, custom_colorize, score
from coltran.image import load_photo
from coltran.page.session import open_photo
from coltran.photo import files
from coltran.training.data import eval_batches, train_batches
from tests.tiny import save_tiny_networks, tiny_pipeline
from tests.tiny_training import whole_config

HEIGHT, WIDTH = 16, 24
# What an upright photograph is turned by, so that the turn of its orientation makes it upright again.
BACK = {turn: Image.Transpose(k) for turn, k in {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.items()}
CARRIERS = ("jpeg", "png", "webp", "tiff", "bigtiff")
# Of EXIF and of what programs put beside it; and those that say how a TIFF is stored, which are none of EXIF's.
TAGS = (0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x013E, 0x0213, 0x8298, 0x83BB, 0x8649,
        0x8769, 0x8825, 0x02BC, 0x9000, 0x927C, 0x9286, 0xA005, 0xA002, 0xC4A5, 0xEA1C, 0x0201, 0x0202)  # fmt: skip
STORED = (254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 282, 283, 284, 296, 0x0201, 0x0202, 0x0213)


def picture() -> np.ndarray:
    """A photograph uint8 [16, 24, 3] whose every turn is another: dark at the top left, light at the bottom right."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    gray = 20 + 4 * x + 8 * y
    return np.repeat(gray[..., None], 3, -1).astype(np.uint8)


def entries(rng: random.Random, orientation: int, order: str, big: bool, stored: dict[int, tuple]) -> list[bytes]:
    """Entries of a directory: what is stored, one valid orientation, and up to 12 that are drawn."""
    inline = 8 if big else 4

    def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
        value = value[:inline].ljust(inline, b"\0")
        return struct.pack(f"{order}HH{'Q' if big else 'I'}", tag, kind, count % (1 << 8 * inline)) + value

    made = [(tag, entry(tag, kind, count, value)) for tag, (kind, count, value) in stored.items()]
    kind, letter = rng.choice(((3, "H"), (4, "I"), (1, "B"), (3, "H")))
    made.append((274, entry(274, kind, 1, struct.pack(order + letter, orientation))))
    for _ in range(rng.randrange(13)):
        tag = rng.choice(TAGS) if rng.random() < 0.8 else rng.randrange(1 << 16)
        if tag == 274 or (stored and tag in STORED):
            continue
        kind = rng.choice((1, 2, 3, 4, 5, 7, 10, 12, 13, 16, 0, 99, rng.randrange(1 << 16)))
        count = rng.choice((0, 1, 2, 3, 9, 40, 1000, 65535, 1 << 24, (1 << 32) - 1, rng.randrange(1 << 32)))
        value = rng.choice((0, 1, 8, 10, 40, 200, 1 << 20, (1 << 32) - 1, rng.randrange(400), rng.randrange(1 << 32)))
        made.append((tag, entry(tag, kind, count, struct.pack(order + ("Q" if big else "I"), value))))
    made.sort(key=lambda one: one[0] if rng.random() < 0.8 else rng.random() * 65536)
    return [one for _, one in made]


def block(rng: random.Random, orientation: int) -> bytes:
    """EXIF without `Exif` in front."""
    order = rng.choice("<>")
    begin = rng.choice((8, 8, 8, 14, 60))
    found = entries(rng, orientation, order, False, {})
    out = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", begin)
    out = out.ljust(begin, b"\0") + struct.pack(f"{order}H", len(found)) + b"".join(found)
    if rng.random() < 0.2:
        return out  # cut off where the next directory would be named
    out += struct.pack(f"{order}I", rng.choice((0, 0, begin, 8, 1 << 31, rng.randrange(1 << 32))))
    return out + rng.randbytes(rng.choice((0, 0, 30, 300)))


def carrier(kind: str, rng: random.Random, orientation: int) -> bytes:
    """A photograph with such EXIF, stored so that it is `picture` once it is turned as the orientation says."""
    stored = Image.fromarray(picture())
    stored = stored.transpose(BACK[orientation]) if orientation in BACK else stored
    if "tiff" in kind:
        return _tiff(stored, rng, orientation, kind == "bigtiff")
    out, made = io.BytesIO(), block(rng, orientation)
    if kind == "png":
        stored.save(out, "PNG")
        chunk = b"eXIf" + made
        chunk = struct.pack(">I", len(made)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        return out.getvalue()[:33] + chunk + out.getvalue()[33:]
    if kind == "webp":
        stored.save(out, "WEBP", lossless=True, exif=made)
    else:
        stored.save(out, "JPEG", quality=98, subsampling=0, exif=b"Exif\0\0" + made)
    return out.getvalue()


def _tiff(image: Image.Image, rng: random.Random, orientation: int, big: bool) -> bytes:
    order = rng.choice("<>")
    pixels = image.tobytes()
    mark, letter = (b"II" if order == "<" else b"MM"), ("Q" if big else "I")
    head = mark + (struct.pack(f"{order}HHHQ", 43, 8, 0, 16) if big else struct.pack(f"{order}HI", 42, 8))

    def built(at: int) -> bytes:
        numbers = {256: image.width, 257: image.height, 259: 1, 262: 2, 277: 3, 278: image.height, 279: len(pixels)}
        kinds = {number: (4, 1, struct.pack(f"{order}I", value)) for number, value in numbers.items()}
        kinds |= {273: (4, 1, struct.pack(f"{order}I", at)), 258: (3, 1, struct.pack(f"{order}H", 8))}
        found = entries(random.Random(state), orientation, order, big, kinds)
        count = struct.pack(order + ("Q" if big else "H"), len(found))
        return head + count + b"".join(found) + struct.pack(order + letter, 0)

    state = rng.random()
    return built(len(built(0))) + pixels


def write(folder: Path, count: int, seed: int) -> list[Path]:
    """So many photographs; number n of a seed is the same every time."""
    paths = []
    for n in range(count):
        rng = random.Random(f"{seed} {n}")
        kind = CARRIERS[n % len(CARRIERS)]
        suffix = {"jpeg": ".jpg", "bigtiff": ".tif", "tiff": ".tif"}.get(kind, f".{kind}")
        paths.append(folder / f"{n:05}{suffix}")
        paths[-1].write_bytes(carrier(kind, rng, rng.randrange(1, 9)))
    return paths


def is_upright(pixels: np.ndarray) -> bool:
    """Whether it is `picture`, but for what JPEG loses."""
    return pixels.shape == (HEIGHT, WIDTH, 3) and np.abs(pixels.mean(-1) - picture().mean(-1)).max() < 8


def check(photos: list[Path], folder: Path) -> Counter[str]:
    """What went wrong, by program."""
    pipeline = tiny_pipeline()
    config = whole_config(resolution=[16, 16], downsample_res=8)
    readers = {
        "load_photo": load_photo,
        "files.read": lambda path: files.read(path).pixels,
        "page": lambda path: np.asarray(open_photo(pipeline, path, path.name, 10**6).view.whole),
        "custom_colorize": lambda path: custom_colorize.read_gray(path, config, "colorize"),
    }
    wrong: Counter[str] = Counter()
    for path in photos:
        for name, read in readers.items():
            try:
                pixels = read(path)
                wrong[f"{name}: sideways"] += name != "custom_colorize" and not is_upright(pixels)
            except Exception as error:
                wrong[f"{name}: {type(error).__name__} {path.suffix}"] += 1
    small = ["--checkpoint", str(save_tiny_networks(folder / "networks")), "--quiet"]
    source = photos[0].parent
    with contextlib.redirect_stdout(io.StringIO()) as told:
        wrong["colorize: exit code"] += colorize.main([str(source), "-o", str(folder / "out"), *small])
        wrong["score: exit code"] += score.main([str(source), *small, "--json"])
    wrong["score: lost"] += len(photos) - len(json.loads(told.getvalue().splitlines()[-1]))
    results = [path for path in (folder / "out").rglob("*-0.*") if "sheet" not in path.name]
    wrong["colorize: lost"] += len(photos) - len(results)
    for path in results:
        gray = np.asarray(Image.open(path).convert("L"))
        wrong["colorize: sideways"] += gray.shape != (HEIGHT, WIDTH) or gray[0, 0] >= gray[-1, -1]
        wrong["colorize: still turned"] += gray.shape != load_photo(path).shape[:2]
    read_by_evaluate = sum(len(batch["rgb"]) for batch in eval_batches(config, source, "coltran_core", 16, None, 0))
    wrong["evaluate: lost"] += len(photos) - read_by_evaluate
    steps = -(-len(photos) // config["batch_size"])
    assert len(list(islice(train_batches(config, source, "coltran_core", 0, 0, 0), steps))) == steps
    return +wrong
