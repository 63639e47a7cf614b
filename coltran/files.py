# SPDX-License-Identifier: Apache-2.0
"""Where files can be written, and files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from coltran.errors import UserError

WRITING = ".writing-"  # what the names of unfinished files and directories begin with


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives the path of a temporary file beside `path`, which takes its place when the block succeeds.

    When the block raises, the temporary file vanishes and whatever was at `path` stays.
    """
    temporary = path.with_name(f"{WRITING}{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.strerror and error.filename in (None, str(temporary)):
            error.filename = str(path)  # the name that whoever reads the error knows
        raise


def check_output(folder: Path) -> None:
    """Raises UserError where a folder that may not exist yet cannot be written to; makes nothing that stays."""
    try:
        existing = next(above for above in (folder.absolute(), *folder.absolute().parents) if above.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except NotADirectoryError:
        raise UserError(f"{folder} cannot be written: {existing} is not a folder.") from None
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}.") from None
