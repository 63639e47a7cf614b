# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: `make test-web` installs Chromium and runs these tests, `make test` does not.

The server runs in this process, with tiny networks, and no test depends on how fast the machine is. SCREENSHOTS, a
folder, keeps pictures for the docs, which are of the networks in the package (`test_pictures.py`).
"""

from __future__ import annotations

import argparse
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from coltran import web
from coltran.page import serve
from coltran.page.serve import Studio
from coltran.pipeline import Pipeline
from tests.forked import free_port
from tests.tiny import LOW, random_guide, tiny_pipeline
from tests.web.person import Person

RED = 448  # a label
Held = Callable[[], Callable[[], None]]
DEMO = Path(__file__).resolve().parents[2] / "coltran" / "demo"
SIZES = {"desk": (1280, 900), "phone": (390, 844)}
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
    """Tiny networks that know nothing, but draw as much as the tests need in no time."""
    tiny = tiny_pipeline()
    return Pipeline(tiny.colorizer, tiny.color_upsampler, tiny.spatial_upsampler, random_guide(LOW))


def options(port: int, queue: int = 60, name: str = "page.example") -> argparse.Namespace:
    """The command line's defaults, for an upload of at most 2 MB and 1 megapixel."""
    numbers = ("--port", str(port), "--queue", str(queue), "--megabytes", "2", "--megapixels", "1", "--name", name)
    return web.parse_arguments(numbers)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where uploads are."""
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="session")
def started(pipeline: Pipeline, folder: Path) -> tuple[str, Studio]:
    """The page's address, and what its server knows."""
    return serve.start(pipeline, folder, options(free_port()))


@pytest.fixture(scope="session")
def server(started: tuple[str, Studio]) -> str:
    """The page's address."""
    return started[0]


@pytest.fixture
def studio(started: tuple[str, Studio]) -> Studio:
    """What the server knows."""
    return started[1]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    found = shutil.which("chromium")
    assert found is not None, "There is no chromium: make test-web installs it."
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=QUIETLY)
        yield browser
        browser.close()


@pytest.fixture(params=SIZES)
def person(request: pytest.FixtureRequest, browser: Browser, server: str) -> Iterator[Person]:
    """Someone new who opens the page, at a desk and on a phone; nothing may be asked of another machine."""
    width, height = SIZES[request.param]
    context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
    page = context.new_page()
    asked: list[str] = []
    failed: list[str] = []
    page.on("request", lambda one: asked.append(one.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(server)
    page.wait_for_selector("#demo img")
    yield Person(page)
    context.close()
    assert not [url for url in asked if not url.startswith((server, "data:", "blob:"))]
    assert not failed


@pytest.fixture
def held(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """`release = held()`: drawings show red, and nothing more until they are stopped or `release()` is called."""
    over = threading.Event()
    colorize = pipeline.colorize

    def slowly(images: Any, edits: Any, **options: Any) -> Any:
        if "preview" not in options or over.is_set():
            return colorize(images, edits, **options)
        view = pipeline.look(images[0])
        for sample in range(options["samples"]):
            options["preview"](0, sample, np.full(view.gray_low.shape, RED))
        while not over.wait(0.02):
            options["progress"]("coarse", 1, 2)
        return colorize(images, edits, **options)

    def hold() -> Callable[[], None]:
        monkeypatch.setattr(pipeline, "colorize", slowly)
        return over.set

    yield hold
    over.set()


@pytest.fixture
def another(server: str, pipeline: Pipeline, folder: Path) -> Callable[..., str]:
    """`another(queue=1)` serves another page, at which one may wait, and gives its address."""
    return lambda **given: serve.start(pipeline, folder, options(free_port(), **given))[0]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photograph of 600 x 450 pixels, in a format that loses nothing."""
    path = tmp_path / "tulips.png"
    Image.open(DEMO / "tulips.jpg").convert("RGB").resize((600, 450), box=(20, 40, 220, 190)).save(path)
    return path
