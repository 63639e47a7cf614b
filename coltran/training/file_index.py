# SPDX-License-Identifier: Apache-2.0
"""An index of a folder's photographs, so that millions of them need not be listed at every start.

A folder is searched by several threads at once, as the answers of a file system that is far away take long. What is
found in a large one is kept in the user's cache directory: the names, and when each folder was last changed. As long as
no folder has changed since, that index is the list; it is mapped into memory, so that the processes of a training share
it.
"""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from coltran.files import written_whole
from coltran.image import PHOTO_SUFFIXES, PhotoError, list_photos
from coltran_kernels.native import cache_directory

KEPT_FROM = 10_000  # photographs; fewer are found again as fast
THREADS = 16
SETTLED = 2_000_000_000  # nanoseconds after which a change of a folder shows in its time for certain


class FileIndex(Sequence[Path]):
    """A lazy sequence of paths, from an index file.

    Args:
        folder: where the photographs are.
        file: the index.
        order: which of the index' photographs, and in what order; all where None.
    """

    def __init__(self, folder: Path, file: Path, order: np.ndarray | None = None) -> None:
        self.folder, self.file, self.order = folder, file, order

    def __reduce__(self) -> tuple[Any, ...]:
        return FileIndex, (self.folder, self.file, self.order)  # another process maps the file by itself

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        with safe_open(self.file, framework="pt") as file:
            return file.get_tensor("names").numpy(), file.get_tensor("ends").numpy()

    def name(self, n: int) -> str:
        """The n-th photograph's path below the folder."""
        names, ends = self._arrays
        n = n if self.order is None else int(self.order[n])
        return os.fsdecode(names[ends[n] : ends[n + 1]].tobytes())

    def __len__(self) -> int:
        return len(self._arrays[1]) - 1 if self.order is None else len(self.order)

    @overload
    def __getitem__(self, n: int) -> Path: ...
    @overload
    def __getitem__(self, n: slice) -> FileIndex: ...
    def __getitem__(self, n: int | slice) -> Path | FileIndex:
        if isinstance(n, slice):
            return self.take(np.arange(len(self))[n])
        return self.folder / self.name(range(len(self))[n])

    def take(self, which: np.ndarray) -> FileIndex:
        """The photographs of these indices, [n]."""
        return FileIndex(self.folder, self.file, which if self.order is None else self.order[which])


def list_folder(folder: str | Path) -> Sequence[Path]:
    """The photographs that `coltran.image.list_photos` finds in a folder, in the same order.

    Raises:
        PhotoError: it does not exist, or holds no photograph.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return list_photos([folder])
    key = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    index = cache_directory() / f"photographs-{key}.safetensors"
    if _holds(index, folder):
        return FileIndex(folder, index)
    began = time.time_ns()
    names, folders = _search(folder)
    if not names:
        raise PhotoError(f"The folder {folder} holds no photographs.")
    if len(names) >= KEPT_FROM:
        try:
            index.parent.mkdir(parents=True, exist_ok=True)
            _keep(index, names, folders, began)
            return FileIndex(folder, index)
        except OSError as error:
            warnings.warn(f"The list of {folder} cannot be kept in {index.parent}: {error.strerror}.", stacklevel=2)
    return [folder / os.fsdecode(name) for name in names]


def _search(folder: Path) -> tuple[list[bytes], dict[bytes, int]]:
    """Photographs below a folder, sorted by path, and the times of the last change of all folders there."""

    def look(inside: bytes) -> tuple[int, list[bytes], list[bytes]]:
        path = os.path.join(root, inside)
        changed = os.stat(path).st_mtime_ns
        photos, folders = [], []
        with os.scandir(path) as entries:
            for entry in entries:
                name = os.path.join(inside, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(name)
                elif entry.name.lower().endswith(suffixes) and not entry.name.startswith(b".") and entry.is_file():
                    photos.append(name)
        return changed, photos, folders

    root, suffixes = os.fsencode(folder), tuple(suffix.encode() for suffix in PHOTO_SUFFIXES)
    names: list[bytes] = []
    changes: dict[bytes, int] = {}
    level = [b""]
    with ThreadPoolExecutor(THREADS) as threads:
        while level:
            found = list(threads.map(look, level))
            changes |= {inside: changed for inside, (changed, _, _) in zip(level, found, strict=True)}
            names += [name for _, photos, _ in found for name in photos]
            level = [inside for _, _, folders in found for inside in folders]
    return sorted(names, key=lambda name: name.replace(b"/", b"\0")), changes


def _keep(index: Path, names: list[bytes], folders: dict[bytes, int], began: int) -> None:
    tensors = {"names": _bytes(names), "ends": _ends(names), "folders": _bytes(folders), "folder_ends": _ends(folders)}
    tensors["changed"] = torch.tensor(list(folders.values()))
    with written_whole(index) as temporary:
        try:
            save_file(tensors, temporary, {"began": str(began)})
        except SafetensorError as error:
            raise OSError(0, str(error)) from error


def _bytes(names: Sequence[bytes] | dict[bytes, int]) -> Tensor:
    return torch.from_numpy(np.frombuffer(b"".join(names), np.uint8).copy())


def _ends(names: Sequence[bytes] | dict[bytes, int]) -> Tensor:
    return torch.tensor([0, *map(len, names)]).cumsum(0)


def _holds(index: Path, folder: Path) -> bool:
    """Whether the index exists and no folder in it has changed since."""
    try:
        with safe_open(index, framework="pt") as file:
            began = int(file.metadata()["began"])
            names, ends = file.get_tensor("folders").numpy().tobytes(), file.get_tensor("folder_ends").tolist()
            changed = file.get_tensor("changed").tolist()
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return False
    if max(changed) > began - SETTLED:
        return False
    root = os.fsencode(folder)
    try:
        times = [os.stat(os.path.join(root, names[a:b])).st_mtime_ns for a, b in zip(ends, ends[1:], strict=False)]
    except OSError:
        return False
    return times == changed
