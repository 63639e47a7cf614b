# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: `make test-web` installs Chromium and runs these tests, `make test` does not.

The server runs in this process, with the weights in the package. SCREENSHOTS, a folder, keeps pictures for the docs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="coltran-web-test-")  # gradio reads it when it is imported

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from coltran import web
from coltran.page import serve
from coltran.pipeline import Pipeline, from_pretrained
from tests.ranks import free_port

FOLDER = Path(os.environ["GRADIO_TEMP_DIR"])
PORT = free_port()
QUIETLY = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says what the tests have measured."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture(scope="session")
def pipeline() -> Pipeline:
    """The networks in the package."""
    return from_pretrained()


def options(port: int = PORT, queue: int = 60, name: str = "page.example") -> argparse.Namespace:
    """The command line's defaults, for an upload of at most 2 MB and 1 megapixel."""
    numbers = ("--port", str(port), "--queue", str(queue), "--megabytes", "2", "--megapixels", "1", "--name", name)
    return web.parse_arguments(numbers)


@pytest.fixture(scope="session", autouse=True)
def server(pipeline: Pipeline) -> Iterator[str]:
    """The page's address."""
    yield serve.start(pipeline, FOLDER, options())
    shutil.rmtree(FOLDER, ignore_errors=True)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    found = shutil.which("chromium")
    assert found is not None, "There is no chromium: make test-web installs it."
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=QUIETLY)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, server: str) -> Iterator[Page]:
    """The page, opened by someone new; nothing may be asked of another machine."""
    context = browser.new_context(viewport={"width": 1200, "height": 1000}, accept_downloads=True)
    page = context.new_page()
    outside: list[str] = []
    page.on("request", lambda asked: outside.append(asked.url))
    page.goto(server)
    page.wait_for_selector("#upload input[type=file]", state="attached", timeout=60_000)
    yield page
    context.close()
    assert not [url for url in outside if not url.startswith((server, "data:", "blob:"))]


@pytest.fixture
def taken() -> argparse.Namespace:
    """A command line with the port that the server has."""
    return options()


@pytest.fixture
def another(server: str, pipeline: Pipeline) -> Callable[..., str]:
    """`another(queue=1)` serves another page, at which one may wait, and gives its address."""
    return lambda **given: serve.start(pipeline, FOLDER, options(free_port(), **given))


@pytest.fixture
def crowd() -> float:
    """By how much a time may be longer than promised, as other programs share the processors: 1 or more."""
    return max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


@pytest.fixture
def folder() -> Path:
    """Where uploads and results are."""
    return FOLDER
