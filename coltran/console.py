# SPDX-License-Identifier: Apache-2.0
"""Logging to the console, and the command-line options that all programs share.

Messages go through `logging`, to the logger "coltran": as a library this project says nothing unless that logger is set
up. A program sets it up by `speak`: what it does on standard output, what goes wrong on standard error.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

LOG = logging.getLogger("coltran")
QUIET, JSON = "say nothing but what goes wrong", "print nothing but the result, as one line of JSON"


class _Console(logging.Handler):
    """Prints the text of a message alone: warnings and errors on stderr, the rest on stdout or, for JSON, there too."""

    json = False

    def emit(self, record: logging.LogRecord) -> None:
        aside = self.json or record.levelno >= logging.WARNING
        text = os.fsencode(record.getMessage()).decode(errors="replace")  # names of files may be in any encoding
        stream = sys.stderr if aside else sys.stdout
        encoding = getattr(stream, "encoding", None) or "utf-8"  # which may have no way to write some of them
        print(text.encode(encoding, "replace").decode(encoding), file=stream, flush=True)


_console = _Console()


def speak(*, quiet: bool = False, json: bool = False) -> None:
    """Prints the messages of the logger "coltran" from now on.

    Args:
        quiet: warnings and errors only.
        json: nothing on standard output, which is left for the result.
    """
    if _console not in LOG.handlers:
        LOG.addHandler(_console)
        LOG.propagate = False
    _console.json = json
    LOG.setLevel(logging.WARNING if quiet else logging.INFO)


def is_quiet() -> bool:
    """Whether --quiet is on: warnings and errors only, no progress."""
    return LOG.getEffectiveLevel() > logging.INFO


def version() -> str:
    """The version of this package and of the torch that it runs on."""
    names = ("coltran", "torch")  # only now: this module is imported by much, and torch takes a while
    return ", ".join(f"{name} {importlib.import_module(name).__version__}" for name in names)


class Parser(argparse.ArgumentParser):
    """A program's command line: its docstring is the help, and --quiet, --json and --version are there.

    Args:
        program: the name of its module.
        description: its docstring.
    """

    def __init__(self, program: str, description: str | None) -> None:
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=f"python -m coltran.{program}", description=description, formatter_class=form)
        group = self.add_argument_group("as for every program")
        group.add_argument("--quiet", action="store_true", help=QUIET)
        group.add_argument("--json", action="store_true", help=JSON)
        group.add_argument("--version", action=_Version)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        options, rest = super().parse_known_args(args, namespace)
        speak(quiet=options.quiet, json=options.json)
        return options, rest


class _Version(argparse.Action):
    """argparse's version action, but importing torch only when it is used."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: object) -> None:
        super().__init__(option_strings, dest, nargs=0, help="say which version this is, and leave")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(version())
        parser.exit()
