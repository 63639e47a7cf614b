# SPDX-License-Identifier: Apache-2.0
"""Errors of the user's making; `coltran.cli.run` prints them as one sentence."""

from __future__ import annotations


def reason(error: BaseException) -> str:
    """What an error says, in one line without a full stop at its end, for a sentence about what it happened to."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "there is too little memory for it"
    said = " ".join(str(getattr(error, "strerror", None) or error).split()).rstrip(".")[:300]
    if isinstance(error, (OSError, ValueError, SyntaxError, EOFError)) and said:  # Pillow's among them
        return said
    return f"an error in the program, {type(error).__name__}{f': {said}' if said else ''}"


class UserError(Exception):
    """An error that the user can fix; the message is one sentence. Exit code 1."""

    exit_code = 1


class UsageError(UserError):
    """A wrong command line. Exit code 2."""

    exit_code = 2
