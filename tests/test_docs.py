# SPDX-License-Identifier: Apache-2.0
"""The documentation is true: every link leads somewhere, every command, option and documented object exists."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
import sys
from functools import cache
from pathlib import Path
from unittest.mock import patch
from urllib.parse import unquote

import pytest

from coltran import __main__ as umbrella

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*(ROOT / "docs").rglob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
PAGES += (ROOT / "coltran").glob("*/README.md")
PAGES = sorted(page for page in PAGES if not page.name.endswith(".in.md"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
EXTRAS = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE))
OURS = re.compile(r"(\.venv/bin/)?(python (-m coltran\.|bench/|docs/)|torchrun |coltran [a-z]|make [a-z]|pip install )")


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made from their text."""
    headings = re.findall(r"^#+ (.*)$", _text(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """The relative links of a page that lead nowhere."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```|`[^`]*`", "", _text(page), flags=re.DOTALL)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    return broken


def commands(page: Path) -> list[str]:
    """The commands of a page that concern us: indented lines, continued ones as one, and code within the text."""
    text = re.sub(r"\\\n\s*", " ", _text(page))
    lines = re.findall(r"^ {4,}(.*)$", text, re.MULTILINE)
    within = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [" ".join(command.split()) for command in (*lines, *within) if OURS.match(command)]


@cache
def _options(program: str) -> set[str]:
    """The options of a command of ours, as it says itself, or of a file, as its source does."""
    if program.endswith(".py"):
        return set(re.findall(r'"(--[\w-]+)"', _text(ROOT / program)))
    said = io.StringIO()
    asked = patch.object(sys, "argv", ["coltran", program, "--help"])
    with asked, contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        umbrella.main()
    return {"--help", "--config", *re.findall(r"--[\w-]+", said.getvalue())}


def unknown(command: str) -> list[str]:
    """What of a command there is not: its program or file, its make target, its extra, or options."""
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        return [word for word in words[1:] if "=" not in word and word not in TARGETS]
    if words[0] == "pip":
        extras = [extra for word in words for extra in re.findall(r"^(?:coltran|\.)\[(.*)\]$", word)]
        return [extra for extra in ",".join(extras).split(",") if extra and extra not in EXTRAS]
    words = words[words.index("-m") + 1 :] if "-m" in words else words[1:]
    program = words[0].removeprefix("coltran.")
    if program in ("X", "COMMAND"):  # any of them
        return []
    if program not in umbrella.programs() and not (program.endswith(".py") and (ROOT / program).exists()):
        return [program]
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    return [option for option in options if option not in _options(program) and not option.startswith("--config.")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    assert broken_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_exists_with_its_options(page):
    assert {command: found for command in commands(page) if (found := unknown(command))} == {}


def test_every_object_in_the_reference_exists():
    for name in re.findall(r"^::: (\S+)$", _text(ROOT / "docs" / "api.md"), re.MULTILINE):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            module, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(module), attribute)
