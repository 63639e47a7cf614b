# SPDX-License-Identifier: Apache-2.0
"""Photographs that are decoded once and mapped into memory are those that are decoded each time."""

from __future__ import annotations

import functools
import itertools
import os
import pickle
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from coltran.image import list_photos, load_photo
from coltran.train import train
from coltran.training import decoded
from coltran.training.data import train_batches
from coltran.training.decoded import Decoded, decode
from tests.disks import full_disk
from tests.forked import Ended, run_ranks
from tests.tiny_training import whole_config, write_photo, write_photos

VARIED = {"random_flip": True, "random_resized_crop": 0.3, "jpeg_draft": True}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory of one's own."""
    folder = tmp_path / "cache" / "coltran"
    monkeypatch.setattr(decoded, "cache_directory", lambda: folder)  # where kernels are built is left as it is
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photographs of several shapes: a large one, one lying on its side, a gray one, and two that cannot be read."""
    folder = write_photos(tmp_path / "photos")
    write_photo(folder / "deep" / "large.jpg", 5, 160, 200)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.open(folder / "p01.png").save(folder / "turned.jpg", exif=turned)
    Image.open(folder / "p02.png").convert("L").save(folder / "gray.png")
    (folder / "no photograph.png").write_bytes(b"no photograph")
    (folder / "half.png").write_bytes((folder / "p03.png").read_bytes()[:300])
    return folder


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The photographs that were decoded into the file."""
    paths: list[Path] = []
    monkeypatch.setattr(decoded, "load_photo", lambda path, **named: (paths.append(path), load_photo(path, **named))[1])
    return paths


def _samples(folder: Path, memory_map: bool, workers: int = 0, **options) -> tuple[list, set[str]]:
    """Batches of three epochs, and what was warned of."""
    config = whole_config("color_upsampler", memory_map=memory_map, **options)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        batches = list(itertools.islice(train_batches(config, folder, "color_upsampler", 3, 2, workers), 15))
    return [{key: value.tolist() for key, value in batch.items()} for batch in batches], {str(w.message) for w in said}


@pytest.mark.parametrize(("workers", "options"), [(0, {}), (0, VARIED), (2, VARIED)])
def test_samples_are_the_same_to_the_bit(folder, cache, workers, options):
    expected = _samples(folder, False, **options)
    assert len(expected[1]) == 2  # photographs that are skipped
    for _ in ("written", "found"):
        assert _samples(folder, True, workers, **options) == expected
    other = {} if options else VARIED  # another way of reading has another file
    _samples(folder, True, **other)
    assert len(list(cache.iterdir())) == 2


def test_every_photograph_is_decoded_once(folder, read, monkeypatch):
    (folder / "no photograph.png").unlink()
    (folder / "half.png").unlink()
    _samples(folder, True)
    monkeypatch.setattr("coltran.training.data.image.load_photo", None)
    _samples(folder, True)
    assert sorted(read) == list_photos([folder])


def _new_time(photo: Path) -> None:
    os.utime(photo, ns=(0, photo.stat().st_mtime_ns + 10_000_000))


@pytest.mark.parametrize(
    "change",
    [
        lambda photo: write_photo(photo, 99),
        _new_time,
        lambda photo: write_photo(photo.with_name("p99.png"), 7),
        Path.unlink,
        lambda photo: photo.rename(photo.with_name("z.png")),
    ],
    ids=["content", "time", "new", "gone", "renamed"],
)
def test_changed_photographs_are_decoded_again_into_the_same_file(folder, cache, read, change):
    _samples(folder, True)
    count = len(read)
    change(folder / "p00.png")
    assert _samples(folder, True) == _samples(folder, False)
    assert len(read) > count and len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    "damage",
    [lambda data, end=end: data[:end] for end in (0, 50, -1)]
    + [lambda data: data + b"\0", lambda data: bytes(len(data))]
    + [lambda data, n=n: data[:n] + bytes([data[n] ^ 4]) + data[n:][1:] for n in (0, 34, 40, 55, -1)],
    ids=["empty", "head", "short", "long", "zeros", "listing", "checksum", "height", "width", "pixel"],
)
def test_a_damaged_file_is_made_anew(folder, cache, damage):
    expected = _samples(folder, True)
    (file,) = cache.iterdir()
    good = file.read_bytes()
    file.write_bytes(damage(good))
    assert _samples(folder, True) == expected
    assert file.read_bytes() == good


def _goes_on(folder: Path, reason: str) -> None:
    """Samples without a file, after a warning that says why."""
    expected, skipped = _samples(folder, False)
    samples, said = _samples(folder, True)
    (why,) = said - skipped
    assert samples == expected
    assert why.startswith("The photographs are decoded each time, in spite of config.memory_map: ") and reason in why


def test_a_full_disk_is_a_warning(folder, cache):
    with full_disk(4000):
        _goes_on(folder, "File too large")
    assert list(cache.iterdir()) == []


def test_a_disk_without_the_room_is_not_filled(folder, cache, read, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4000))
    _goes_on(folder, f"{cache}")
    assert read == [] and list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_a_warning(folder, cache):
    cache.parent.write_text("in the way")
    _goes_on(folder, "Not a directory")


@pytest.mark.parametrize(("limit", "most"), [("MOST_BYTES", 16_000), ("MOST_PHOTOS", 9)])
def test_a_large_folder_is_not_kept(folder, cache, read, monkeypatch, limit, most):
    monkeypatch.setattr(decoded, limit, most)
    _goes_on(folder, "more than")
    assert read == [] and not cache.exists()


def test_what_a_killed_writer_left_is_cleared(folder, cache):
    cache.mkdir(parents=True)
    (cache / f".writing-999999999@{os.uname().nodename}@decoded-1.bin").touch()
    _samples(folder, True)
    assert [path.suffix for path in cache.iterdir()] == [".bin"]


def test_another_process_maps_the_file_by_itself(folder):
    found = decode(list_photos([folder]), 0)
    assert found is not None and len(pickle.dumps(found)) < 500
    again = pickle.loads(pickle.dumps(found))
    assert all(np.array_equal(found[n], again[n]) for n in range(len(list_photos([folder]))) if found[n] is not None)


def test_another_process_does_without_a_file_that_another_training_has_replaced(folder):
    packed = pickle.dumps(decode(list_photos([folder]), 0))
    write_photo(folder / "p00.png", 99)
    decode(list_photos([folder]), 0)
    assert pickle.loads(packed) is None


def test_several_at_once_find_the_same(folder, cache, tmp_path):
    def check() -> None:
        found, paths = decode(list_photos([folder]), 0), list_photos([folder])
        assert isinstance(found, Decoded) and found.is_whole()
        assert np.array_equal(found[paths.index(folder / "p00.png")], load_photo(folder / "p00.png"))

    assert [end.code for end in run_ranks(4, check, tmp_path / "said")] == [0] * 4
    assert len(list(cache.iterdir())) == 1


def test_of_several_processes_one_decodes(tmp_path):
    config, folder = whole_config(max_train_steps=1, memory_map=True), write_photos(tmp_path / "photos")
    work = functools.partial(train, config, tmp_path / "log", folder, workers=0)
    first, second = run_ranks(2, work, tmp_path / "said")
    assert "Decoding 5 photographs once" in first.said and second == Ended(0, "")
