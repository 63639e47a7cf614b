# SPDX-License-Identifier: Apache-2.0
"""Atomic writes, their leftovers, and checks before writing."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
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
    short = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]  # the name itself may be as long as names can be
    temporary = path.with_name(f"{WRITING}{os.getpid()}@{platform.node()}@{short}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.strerror and error.filename in (None, str(temporary)):
            error.filename = str(path)  # the name that whoever reads the error knows
        raise


def clear_unfinished(folder: Path) -> None:
    """Removes the temporary files that writers on this machine left in a folder when they were killed."""
    if os.name != "posix":
        return  # elsewhere there is no harmless way to ask whether a process is there
    for path in folder.glob(f"{WRITING}*"):
        number, _, rest = path.name.removeprefix(WRITING).partition("@")
        if number.isdigit() and rest.startswith(f"{platform.node()}@") and not runs(int(number)):
            path.unlink(missing_ok=True)


def runs(number: int) -> bool:
    """Whether a process with this id runs on this machine; False where that cannot be told."""
    if os.name != "posix":
        return False  # os.kill would send Ctrl-C
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def check_output(folder: Path) -> None:
    """Raises UserError if the folder, which need not exist yet, cannot be written to; leaves nothing behind."""
    try:
        existing = next(above for above in (folder.absolute(), *folder.absolute().parents) if above.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except NotADirectoryError:
        raise UserError(f"{folder} cannot be written: {existing} is not a folder.") from None
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}.") from None
