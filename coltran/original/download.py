# SPDX-License-Identifier: Apache-2.0
"""Downloads and converts the networks that the original's authors published."""

from __future__ import annotations

import base64
import http.client
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import google_crc32c
from torch import nn

from coltran.checkpoint import CheckpointError
from coltran.errors import UserError
from coltran.files import WRITING
from coltran.original import configuration
from coltran.original.bundle import open_bundle, unescape
from coltran.original.load import convert
from coltran.original.variables import canonical_names
from coltran_kernels.native import cache_directory

URL = "https://storage.googleapis.com/gresearch/coltran/coltran.zip"
LICENCE = "their authors' page names none; the program that trained them is under the Apache License 2.0"
FOLDERS = {"coltran_core": "colorizer", "color_upsampler": "color_upsampler", "spatial_upsampler": "spatial_upsampler"}
_CHUNK = 1 << 20

Progress = Callable[[int, int | None], None]  # (bytes that are here, bytes in all where the server says so)


def cached() -> Path:
    """Where the published networks are kept: in the user's cache directory."""
    return cache_directory() / "published"


def is_installed(output: Path, url: str = URL) -> bool:
    """Whether `install` has finished there."""
    return (output / "colorizer" / "model.safetensors").is_file() and not _archive(output, url).exists()


def install(output: Path, url: str = URL, progress: Progress | None = None) -> dict[Path, tuple[nn.Module, int | None]]:
    """Fetches the archive, converts the networks in it into folders of `output`, and removes what is then of no use.

    Interrupted, it goes on where it stopped when it is called again.

    Returns:
        {where a network went: the network and its training step}.

    Raises:
        UserError, CheckpointError, OSError: as for `fetch`, `unpack` and `coltran.original.load.convert`.
    """
    archive = fetch(url, _archive(output, url), progress)
    found = {output / name: convert(source, output / name) for name, source in unpack(archive).items()}
    shutil.rmtree(_unpacked(archive))
    archive.unlink()
    return found


def _archive(output: Path, url: str) -> Path:
    parts = urllib.parse.urlsplit(url)
    name = parts.path.rsplit("/", 1)[-1]
    if parts.scheme not in ("http", "https", "file") or not name:
        raise UserError(f"{url} is no address of an archive, such as {URL}.")
    return output / name


def fetch(url: str, target: Path, progress: Progress | None = None) -> Path:
    """Downloads `url` to `target`. What an interrupted download left in `target` + ".part" is not fetched again.

    Raises:
        UserError: the network or the server does not answer, or the connection broke, and what came so far is kept; or
            what came is not what the server's checksum says.
        OSError: it cannot be written.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            resumed = answer.status == http.HTTPStatus.PARTIAL_CONTENT
            done = done if resumed else 0
            length = answer.headers.get("Content-Length")
            total = None if length is None else done + int(length)
            checksum = _checksum(answer.headers.get_all("x-goog-hash", []))
            with open(part, "ab" if resumed else "wb") as file:
                while chunk := answer.read(_CHUNK):
                    file.write(chunk)
                    done += len(chunk)
                    if progress is not None:
                        progress(done, total)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # which says that all of it is here
            raise UserError(f"{url} cannot be fetched: the server answers {error.code} {error.reason}.") from error
        total, checksum = done, None
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise UserError(f"The download of {url} broke off; the same command again goes on from there.") from error
    except urllib.error.URLError as error:
        raise UserError(f"{url} cannot be reached ({error.reason}): is there a network?") from error
    if total is not None and done < total:
        raise UserError(f"The download of {url} broke off; the same command again goes on from there.")
    if checksum is not None and _crc32c(part) != checksum:
        part.unlink()
        raise UserError(f"What came from {url} is damaged; the same command again fetches it anew.")
    os.replace(part, target)
    return target


def _checksum(headers: Sequence[str]) -> bytes | None:
    """The CRC-32C in what a server of Google's says of a file, as in "crc32c=n03x6A==,md5=..."; None without."""
    parts = [part.strip() for header in headers for part in header.split(",")]
    found = [part.removeprefix("crc32c=") for part in parts if part.startswith("crc32c=")]
    return base64.b64decode(found[0]) if found else None


def _crc32c(path: Path) -> bytes:
    checksum = google_crc32c.Checksum()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            checksum.update(chunk)
    return checksum.digest()


def _unpacked(archive: Path) -> Path:
    return archive.with_name(f"{WRITING}{archive.stem}")


def unpack(archive: Path) -> dict[str, Path]:
    """Extracts an archive beside itself; returns {folder of a network: its TensorFlow checkpoint}.

    Raises:
        UserError: it is no archive, is larger than the disk, or holds no checkpoint.
        CheckpointError: a checkpoint in it is damaged.
    """
    folder = _unpacked(archive)
    try:
        with zipfile.ZipFile(archive) as file:
            wanted, free = sum(entry.file_size for entry in file.infolist()), shutil.disk_usage(archive.parent).free
            if wanted > free:
                raise UserError(f"{archive} unpacks to {wanted >> 20} MB, and {free >> 20} MB are free.")
            file.extractall(folder)
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{archive} is damaged; delete it and fetch it again.") from error
    found: dict[str, Path] = {}
    for place in sorted({index.parent for index in folder.rglob("*.index")}):
        bundle = open_bundle(place)
        names = canonical_names(unescape(key) for key in bundle.entries)
        try:
            name = configuration.network_name({canonical: () for canonical in names.values()})
        except configuration.UnknownNetwork as error:
            raise CheckpointError(f"{place} cannot be converted: {error}.") from error
        found[FOLDERS[name]] = place
    if not found:
        raise UserError(f"{archive} holds no TensorFlow checkpoint.")
    return found
