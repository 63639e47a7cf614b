# SPDX-License-Identifier: Apache-2.0
"""All programs under one name: `coltran colorize old.jpg` is `python -m coltran.colorize old.jpg`.

    coltran COMMAND --help
    coltran --print-completion bash > ~/.local/share/bash-completion/completions/coltran

Exit codes: 0 done; 1 something could not be done, and a sentence on standard error says what; 2 the command line makes
no sense; 130 interrupted by Ctrl-C, 143 ended by SIGTERM (a training has saved a checkpoint by then).
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import sys
from pathlib import Path
from typing import NoReturn

from coltran import cli
from coltran.console import version


def programs() -> dict[str, str]:
    """{name: the first line of its docstring} of every module or package of this package that can be started."""
    found, here = {}, Path(__file__).parent
    for path in (*here.glob("*.py"), *here.glob("*/__main__.py")):
        source = path.read_text(encoding="utf-8")
        name = path.parent.name if path.stem == "__main__" else path.stem
        if path != Path(__file__) and '\nif __name__ == "__main__":' in source:
            found[name] = (ast.get_docstring(ast.parse(source)) or "").split("\n", 1)[0]
    return dict(sorted(found.items()))


def parser() -> argparse.ArgumentParser:
    """The command line up to the command; shtab completes commands and files, where it is installed."""
    whole = argparse.ArgumentParser(
        prog="coltran", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    whole.add_argument("--version", action="version", version=version())
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", required=True)
    files = [
        commands.add_parser(name, help=text, add_help=False).add_argument("arguments", nargs="*")
        for name, text in programs().items()
    ]
    with contextlib.suppress(ImportError):
        import shtab

        shtab.add_argument_to(whole, "--print-completion")
        for arguments in files:
            arguments.complete = shtab.FILE  # type: ignore[attr-defined]
    return whole


def main() -> NoReturn:
    """The program: hands everything after the command to the command's own."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in programs():
        parser().parse_args()
    sys.argv = [f"{sys.argv[0]} {name}", *sys.argv[2:]]
    package = (Path(__file__).parent / name).is_dir()
    cli.run(importlib.import_module(f"coltran.{name}.__main__" if package else f"coltran.{name}").main)


if __name__ == "__main__":
    main()
