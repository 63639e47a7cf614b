# SPDX-License-Identifier: Apache-2.0
"""Which photographs are `train`, `valid` and `test`: of ImageNet, or of a folder of one's own.

imagenet    DIR/train/CLASS/... and DIR/val/CLASS/...; `test` is val. The original takes the last 10,000 training
            images of its own shuffled copy for `valid`, which cannot be had from the files: here the training
            images are put in the order of the SHA-256 of CLASS/NAME, and the last 10,000 of those are `valid`
custom      a folder of photographs, searched with its subfolders: the same for every subset
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from coltran.errors import UserError
from coltran.training.file_index import FileIndex, list_folder

DATASETS = ("imagenet", "custom")
SUBSETS = ("train", "eval_train", "valid", "test")
VALID = 10_000


def photographs(dataset: str, data_dir: str | Path | None, subset: str, valid: int = VALID) -> Sequence[Path]:
    """The photographs of a subset, in an order that depends on their names alone.

    Args:
        dataset: "imagenet" or "custom".
        data_dir: the folder.
        subset: "train", "valid", "test", or "eval_train", which is all of ImageNet's training folder.
        valid: how many of ImageNet's training images are kept from `train` for `valid`.

    Raises:
        UserError: no folder is named, an unknown dataset, or a folder without ImageNet's layout.
        PhotoError: the folder is missing or holds no photograph.
    """
    if dataset not in DATASETS:
        raise UserError(f"config.dataset must be one of {', '.join(DATASETS)}, not {dataset!r}.")
    if not data_dir:
        raise UserError("Name the folder of photographs with --data_dir=DIR.")
    if dataset == "custom":
        return list_folder(data_dir)
    root = Path(data_dir)
    if missing := [name for name in ("train", "val") if not (root / name).is_dir()]:
        raise UserError(
            f"{root} is not laid out as ImageNet: it has no folder {missing[0]}; "
            "--dataset=custom takes any folder of photographs."
        )
    photos = list_folder(root / ("val" if subset == "test" else "train"))
    if subset == "test":
        return photos
    photos = _by_names(photos)
    if subset == "eval_train":
        return photos
    if len(photos) <= valid:
        raise UserError(f"{root / 'train'} holds {len(photos)} images, of which {valid} are kept for validation.")
    return photos[len(photos) - valid :] if subset == "valid" else photos[: len(photos) - valid]


def _by_names(photos: Sequence[Path]) -> Sequence[Path]:
    """The photographs in the order of the SHA-256 of CLASS/NAME."""
    if not isinstance(photos, FileIndex):
        return sorted(photos, key=lambda path: hashlib.sha256("/".join(path.parts[-2:]).encode()).digest())
    prefix = photos.folder.name + "/"
    tails = ("/".join((prefix + photos.name(n)).rsplit("/", 2)[-2:]) for n in range(len(photos)))
    digests = b"".join(hashlib.sha256(tail.encode()).digest() for tail in tails)
    words = np.frombuffer(digests, ">u8").reshape(-1, 4)
    return photos.take(np.lexsort(words.T[::-1]).astype(np.int32))


def labels(dataset: str, photos: Sequence[Path], data_dir: str | Path) -> list[int]:
    """A number for each of a subset's photographs: ImageNet's class, counted in the order of the classes' names.

    A custom photograph has no class: it gets its own number, by which the stages of sampling tell that they speak
    of the same one.
    """
    if dataset == "custom":
        return list(range(len(photos)))
    folder = Path(data_dir) / "train"
    numbers = {path.name: number for number, path in enumerate(sorted(p for p in folder.iterdir() if p.is_dir()))}
    return [numbers.get(path.parent.name, -1) for path in photos]
