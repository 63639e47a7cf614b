# SPDX-License-Identifier: Apache-2.0
"""A cache of decoded photographs: one file that all processes map into memory.

The file lies in the user's cache directory. It holds the SHA-256 of what the photographs are (paths, sizes, times of
the last change, how they are read), a CRC-32 of all that follows, heights and widths, int64 [N, 2], and the pixels,
uint8 [H, W, 3], one photograph after another. Each is whole and as it was read, so what is made of it is the same to
the bit. A photograph that cannot be read has no rows and no columns.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import shutil
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from coltran.console import LOG
from coltran.files import clear_unfinished, written_whole
from coltran.image import PhotoError, load_photo, photo_size
from coltran_kernels.native import cache_directory

MOST_BYTES = 4 << 30  # of pixels
MOST_PHOTOS = 100_000  # sizes and times of all of them are asked for at every start
CRC = 8  # bytes


class Decoded:
    """The cached photographs, by index.

    Args:
        file: where they are.
        listing: the SHA-256 of what they are to be.
        count: how many.

    Raises:
        OSError, ValueError: the file is not there, or of other photographs, or not of the length it says.
    """

    def __init__(self, file: Path, listing: bytes, count: int) -> None:
        self._origin = file, listing, count
        data = np.asarray(np.memmap(file, np.uint8, "r"))
        known, self._crc, sizes, self._pixels = np.split(data, np.cumsum([len(listing), CRC, 16 * count]))
        self._sizes = sizes.view(np.int64).reshape(count, 2)
        self._ends = np.cumsum(3 * self._sizes.prod(1))
        if known.tobytes() != listing or self._ends[-1] != len(self._pixels):
            raise ValueError("other photographs have taken their place")

    def __reduce__(self) -> tuple[Any, ...]:
        return _find, self._origin  # another process maps the file by itself

    def __getitem__(self, n: int) -> np.ndarray | None:
        """The n-th photograph, uint8 [H, W, 3], not to be written to; None if it cannot be read."""
        height, width = self._sizes[n]
        end = self._ends[n]
        return self._pixels[end - 3 * height * width : end].reshape(height, width, 3) if height else None

    def is_whole(self) -> bool:
        """Whether the checksum is right."""
        return _crc(self._sizes, zlib.crc32(self._pixels.data)) == self._crc.tobytes()


def decode(paths: Sequence[Path], least: int) -> Decoded | None:
    """The cache of what `load_photo(path, least=least)` gives, written first where it is missing or stale.

    None, with a warning that says why, where they are too many or cannot be kept.
    """
    try:
        return _kept(paths, least)
    except ValueError as error:
        reason = str(error)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
    warnings.warn(f"The photographs are decoded each time, in spite of config.memory_map: {reason}.", stacklevel=2)
    return None


def _kept(paths: Sequence[Path], least: int) -> Decoded:
    if len(paths) > MOST_PHOTOS:
        raise ValueError(f"there are more than {MOST_PHOTOS}")
    full = [os.path.abspath(path) for path in paths]
    # Named by folder, so that what has changed there takes the place of what was.
    name = hashlib.sha256(os.fsencode(f"{least} {os.path.commonpath(full)}")).hexdigest()[:16]
    file = cache_directory() / f"decoded-{name}.bin"
    listing = hashlib.sha256(f"Pillow {PIL.__version__}, {least}".encode())
    for path in full:
        status = os.stat(path)
        listing.update(os.fsencode(f"\n{path}\0{status.st_size} {status.st_mtime_ns}"))
    found = _find(file, listing.digest(), len(paths))
    if found is None or not found.is_whole():
        _write(file, listing.digest(), paths, least)
        found = Decoded(file, listing.digest(), len(paths))
    return found


def _find(file: Path, listing: bytes, count: int) -> Decoded | None:
    try:
        return Decoded(file, listing, count)
    except (OSError, ValueError):
        return None


def _crc(sizes: np.ndarray, pixels: int) -> bytes:
    return zlib.crc32(sizes.data, pixels).to_bytes(CRC, "little")


def _write(file: Path, listing: bytes, paths: Sequence[Path], least: int) -> None:
    expected = 0
    for path in paths:
        with contextlib.suppress(PhotoError):
            expected += 3 * math.prod(photo_size(path, least=least))
        if expected > MOST_BYTES:
            raise ValueError(f"decoded they take more than {MOST_BYTES >> 30} GiB")
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    clear_unfinished(file.parent)
    if shutil.disk_usage(file.parent).free < expected:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
    LOG.info("%s", f"Decoding {len(paths)} photographs once, into {file}.")
    sizes, crc = np.zeros((len(paths), 2), np.int64), 0
    with written_whole(file) as temporary, open(temporary, "wb") as opened:
        opened.seek(len(listing) + CRC + sizes.nbytes)
        for n, path in enumerate(paths):
            with contextlib.suppress(PhotoError):
                photo = load_photo(path, least=least)
                sizes[n], crc = photo.shape[:2], zlib.crc32(photo.data, crc)
                opened.write(photo.data)
        opened.seek(0)
        opened.write(listing + _crc(sizes, crc) + sizes.tobytes())
