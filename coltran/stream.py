# SPDX-License-Identifier: Apache-2.0
"""One photograph from standard input or a file to standard output: `coltran.colorize - > coloured.jpg`."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from coltran.console import LOG
from coltran.errors import UsageError
from coltran.photo import files
from coltran.photo.hints import Edits
from coltran.photo.results import check_room, encode_coloring
from coltran.pipeline import Pipeline

INPUT = "standard input"


def check_streams() -> None:
    """Raises UsageError where the photograph would be written to a terminal."""
    if sys.stdout.isatty():
        raise UsageError("The photograph would be written to the terminal: send standard output to a file or program.")


def color_stream(
    pipeline: Pipeline,
    name: str,
    *,
    drawing: Mapping[str, Any],
    edits: Callable[[Any], Edits] | None,
    samples: int,
    batch: int,
    format: str | None,
    quality: int,
    strict: bool,
) -> None:
    """Colours one photograph and writes the first in the order to standard output, and nothing where it fails.

    Args:
        name: of the file; "-" is standard input.
        edits: of the photograph's pixels, where anything is imposed on it.
        drawing, samples, batch, format, quality, strict: as of `coltran.album.color_album`.

    Raises:
        PhotoError: it cannot be read or written.
    """
    if name == "-":
        photo = files.read(INPUT, io.BytesIO(sys.stdin.buffer.read()), strict=strict)
    else:
        photo = files.read(Path(name), strict=strict)
    for note in photo.notes:
        LOG.warning("%s", f"{INPUT if name == '-' else name} {note}.")
    check_room(photo, drawing, format or photo.format)
    imposed = None if edits is None else [edits(photo.pixels)]
    (found,) = pipeline.colorize([photo.pixels], imposed, samples=samples, best=1, batch_size=batch, **drawing)
    content = encode_coloring(
        found.images[0],
        photo,
        drawing,
        format=format,
        quality=quality,
        sample=found.samples[0],
        bits=-found.log_prob[0],
    )
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()
