# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from coltran.image import PhotoError, list_photos
from coltran.training import file_index
from coltran.training.data import eval_batches, train_batches
from coltran.training.datasets import photographs
from coltran.training.file_index import FileIndex, list_folder
from tests.tiny_training import whole_config, write_photo, write_photos

NAMES = ["b/2.png", "b/10.JPG", "a.png", "a/z.webp", "a-b/c.png", "a/.hidden.png", "a/notes.txt", "ä/x y.png", "b.png"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory of one's own; every list is kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(file_index, "KEPT_FROM", 1)
    return tmp_path / "cache" / "coltran"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    _age(folder)
    return folder


def _age(folder: Path) -> None:
    """Lets a folder be as it is since ten seconds, as a folder of photographs is."""
    for path in [folder, *folder.rglob("*")]:
        past = path.stat().st_mtime_ns - 10_000_000_000
        os.utime(path, ns=(past, past))


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were searched."""
    found: list[Path] = []
    search = file_index._search
    monkeypatch.setattr(file_index, "_search", lambda folder: (found.append(folder), search(folder))[1])
    return found


def test_it_searches_once_and_lists_what_list_photos_does_in_the_same_order(folder, cache, searches):
    expected = list_photos([folder])
    assert len(expected) == 7
    for _ in ("searched", "kept"):
        found = list_folder(folder)
        assert list(found) == expected and isinstance(found, FileIndex)
    assert searches == [folder]
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]


def test_a_small_folder_is_not_kept(folder, cache, monkeypatch):
    monkeypatch.setattr(file_index, "KEPT_FROM", 8)
    assert list_folder(folder) == list_photos([folder])
    assert not cache.exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "ä" / "new.png").touch(),
        lambda folder: (folder / "b" / "2.png").unlink(),
        lambda folder: (folder / "b" / "2.png").rename(folder / "b" / "3.png"),
        lambda folder: write_photo(folder / "a" / "deep" / "p.png", 0),
        lambda folder: shutil.rmtree(folder / "a-b"),
    ],
    ids=["new", "gone", "renamed", "new folder", "folder gone"],
)
def test_a_change_is_seen(folder, change, searches):
    list_folder(folder)
    change(folder)
    assert list(list_folder(folder)) == list_photos([folder])
    assert len(searches) == 2


def test_a_folder_that_has_only_just_changed_is_not_trusted(folder, searches):
    """Two changes within one tick of the file system's clock look like one."""
    (folder / "ä" / "new.png").touch()
    for _ in range(2):
        list_folder(folder)
    assert len(searches) == 2


def test_a_damaged_index_is_made_anew(folder, cache, searches):
    list_folder(folder)
    (index,) = cache.iterdir()
    index.write_bytes(index.read_bytes()[:-9])
    assert list(list_folder(folder)) == list_photos([folder])
    assert len(searches) == 2


def test_a_cache_that_cannot_be_written_is_a_warning(folder, cache):
    cache.parent.write_text("in the way")
    with pytest.warns(UserWarning, match="cannot be kept"):
        assert list_folder(folder) == list_photos([folder])


def test_an_empty_folder_and_none_are_errors(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(PhotoError, match="holds no photographs"):
        list_folder(tmp_path / "empty")
    with pytest.raises(PhotoError, match="does not exist"):
        list_folder(tmp_path / "nowhere")


def test_parts_and_orders_of_a_listing_are_those_of_the_list(folder):
    found, expected = list_folder(folder), list_photos([folder])
    assert (list(found[2:5]), found[-1]) == (expected[2:5], expected[-1])
    chosen = found.take(np.array([4, 0, 2]))
    assert list(chosen[1:]) == [expected[0], expected[2]]
    with pytest.raises(IndexError):
        chosen[3]


def test_another_process_gets_the_name_of_the_index_only(folder):
    found = list_folder(folder)
    list(found)
    packed = pickle.dumps(found)
    assert len(packed) < 500
    assert list(pickle.loads(packed)) == list(found)


def _tensors(batches, count):
    return [batch["rgb"].tolist() for batch, _ in zip(batches, range(count), strict=False)]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_without_an_index(tmp_path, monkeypatch, workers):
    folder, config = write_photos(tmp_path / "some"), whole_config()
    results = []
    for kept_from in (1, 100):
        monkeypatch.setattr(file_index, "KEPT_FROM", kept_from)
        train = _tensors(train_batches(config, folder, "coltran_core", 3, 2, workers), 6)
        results.append((train, _tensors(eval_batches(config, folder, "coltran_core", limit=3, workers=workers), 9)))
    assert results[0] == results[1]


def test_imagenets_subsets_are_those_without_an_index(tmp_path, monkeypatch):
    for n in range(20):
        write_photo(tmp_path / "train" / f"n{n % 3}" / f"{n}.png", 0, 4, 4)
    write_photo(tmp_path / "train" / "stray.png", 0, 4, 4)
    write_photo(tmp_path / "val" / "v.png", 0, 4, 4)
    subsets = []
    for kept_from in (1, 100):
        monkeypatch.setattr(file_index, "KEPT_FROM", kept_from)
        subsets.append([list(photographs("imagenet", tmp_path, s, valid=4)) for s in ("train", "valid", "eval_train")])
    assert subsets[0] == subsets[1]
