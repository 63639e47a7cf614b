# SPDX-License-Identifier: Apache-2.0
"""Fetches the archive of trained networks that the original's authors published, and takes it apart."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from coltran.checkpoint import CheckpointError
from coltran.errors import UserError
from coltran.original import configuration
from coltran.original.bundle import open_bundle, unescape
from coltran.original.variables import canonical_names

URL = "https://storage.googleapis.com/gresearch/coltran/coltran.zip"
FOLDERS = {
    "coltran_core": "colorizer",
    "color_upsampler": "color_upsampler",
    "spatial_upsampler": "spatial_upsampler",
}
_CHUNK = 1 << 20


def fetch(url: str, target: Path) -> Path:
    """Downloads `url` to `target`. What an interrupted download left in `target` + ".part" is not fetched again.

    Raises:
        UserError: the network or the server does not answer, or the connection broke; what came so far is kept.
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
            with open(part, "ab" if resumed else "wb") as file:
                while chunk := answer.read(_CHUNK):
                    file.write(chunk)
                    done += len(chunk)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # which says that all of it is here
            raise UserError(f"{url} cannot be fetched: the server answers {error.code} {error.reason}.") from error
        total = done
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise UserError(f"The download of {url} broke off; the same command again goes on from there.") from error
    except urllib.error.URLError as error:
        raise UserError(f"{url} cannot be reached ({error.reason}): is there a network?") from error
    if total is not None and done < total:
        raise UserError(f"The download of {url} broke off; the same command again goes on from there.")
    os.replace(part, target)
    return target


def published(output: Path, url: str = URL) -> dict[Path, Path]:
    """Fetches and unpacks the published archive; {where its network goes in `output`: its TensorFlow checkpoint}.

    Raises:
        UserError: it cannot be fetched, is no archive, or holds no checkpoint.
        CheckpointError: a checkpoint in it is damaged.
    """
    archive = fetch(url, output / url.rsplit("/", 1)[1])
    folder = archive.with_suffix("")
    try:
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)
    except (zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{archive} is damaged; delete it and fetch it again.") from error
    found: dict[Path, Path] = {}
    for place in sorted({index.parent for index in folder.rglob("*.index")}):
        bundle = open_bundle(place)
        names = canonical_names(unescape(key) for key in bundle.entries)
        try:
            name = configuration.network_name({canonical: () for canonical in names.values()})
        except configuration.UnknownNetwork as error:
            raise CheckpointError(f"{place} cannot be converted: {error}.") from error
        found[output / FOLDERS[name]] = place
    if not found:
        raise UserError(f"{archive} holds no TensorFlow checkpoint.")
    return found
