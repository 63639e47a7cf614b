# SPDX-License-Identifier: Apache-2.0
"""The pictures of docs/page.md, with the networks in the package: SCREENSHOTS=docs/images/page makes them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser

from coltran import web
from coltran.loading import from_pretrained
from coltran.page import serve
from tests.forked import free_port
from tests.web.conftest import DEMO, SIZES
from tests.web.person import Person

FOLDER = os.environ.get("SCREENSHOTS", "")
pytestmark = pytest.mark.skipif(not FOLDER, reason="SCREENSHOTS names no folder to keep the pictures in")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with the networks in the package."""
    return serve.start(
        from_pretrained(), tmp_path_factory.mktemp("uploads"), web.parse_arguments(["--port", str(free_port())])
    )[0]


@pytest.mark.parametrize("size", SIZES)
def test_pictures_are_taken(browser: Browser, address: str, size: str) -> None:
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height}, reduced_motion="reduce")

    def take(name: str) -> None:
        page.wait_for_load_state("networkidle")
        page.screenshot(path=Path(FOLDER) / f"{name}-{size}.jpg", type="jpeg", quality=85)

    page.goto(address)
    person = Person(page)
    page.wait_for_selector("#demo img")
    take("start")
    person.click("#demo button >> nth=3")
    person.wait(4)
    page.locator("#compare").press("ArrowRight")
    for _ in range(4):
        page.locator("#compare").press("ArrowRight")
    page.mouse.move(1, 1)
    page.locator("#compare").blur()
    take("page")
    page.locator("#compare").press("Home")
    page.locator("#compare").blur()
    person.spot(0.66, 0.5)
    take("hint")
    page.locator("#any").fill("#e8c020")
    person.click("#use")
    person.wait(5)
    take("hinted")
    page.close()


def test_seconds_are_measured(address: str, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """From a photograph of a megapixel on the server to its first finished colouring and to four."""
    from tests.web.visitor import Visitor

    Image.open(DEMO / "tulips.jpg").resize((1000, 1000)).save(tmp_path / "large.jpg")
    for _ in range(2):
        visitor, start, spent, seen = Visitor(address), time.monotonic(), time.process_time(), {}
        visitor.open(tmp_path / "large.jpg")
        with visitor.drawing(samples=4) as told:
            for one in told:
                name = "preview" if "preview" in one else f"{len(seen)}"
                if name == "preview" or "coloring" in one:
                    seen.setdefault(name, (time.monotonic() - start, time.process_time() - spent))
        said = "; ".join(f"{name} {a:.2f} s, {b:.2f} s of the processor" for name, (a, b) in seen.items())
        record_property("from the upload on", said)
    assert len(seen) >= 4
