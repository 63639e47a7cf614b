# SPDX-License-Identifier: Apache-2.0
"""Someone who uses the page in a browser, and whose clicks are counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect

PATIENCE = 120_000  # milliseconds that nothing takes unless it is broken
expect.set_options(timeout=PATIENCE)


class Person:
    """One person with a page.

    Args:
        page: opened at its first screen.
    """

    def __init__(self, page: Page) -> None:
        page.set_default_timeout(PATIENCE)
        self.page, self.clicks = page, 0

    def click(self, what: str) -> None:
        """Clicks on something."""
        self.clicks += 1
        self.page.locator(what).click()

    def choose(self, *photos: Path) -> None:
        """Chooses photographs and waits for their colourings."""
        with self.page.expect_file_chooser() as choosing:
            self.click("#drop")
        choosing.value.set_files(photos)
        self.wait(4)

    def wait(self, count: int) -> None:
        """Until there are so many colourings of the photograph on the stage and nothing is drawn."""
        expect(self.page.locator("#strip button")).to_have_count(count)
        expect(self.page.locator("#stop")).to_be_hidden()

    def chosen(self) -> int:
        """Which of the colourings is on the stage, from 1 on."""
        pressed = self.page.locator("#strip button").evaluate_all("all => all.map(one => one.ariaPressed)")
        return pressed.index("true") + 1

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a place of the photograph, in shares of its width and height, is on screen."""
        self.page.locator("#aim").scroll_into_view_if_needed()
        box = self.page.locator("#stage").bounding_box()
        assert box is not None
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def spot(self, x: float, y: float) -> None:
        """Clicks on the photograph and waits for what is offered there."""
        self.clicks += 1
        self.page.mouse.click(*self.place(x, y))
        self.page.wait_for_selector("#swatches button")

    def drag(self, *places: tuple[float, float]) -> None:
        """Presses at the first place of the photograph, and lets go at the last; counts as a click."""
        self.clicks += 1
        self.page.mouse.move(*self.place(*places[0]))
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*self.place(*place), steps=4)
        self.page.mouse.up()

    def download(self, to: Path, what: str = "#download") -> Path:
        """Fetches a result."""
        with self.page.expect_download() as found:
            self.click(what)
        found.value.save_as(to)
        return to

    def picture(self, to: Path) -> np.ndarray:
        """The result at full size, uint8 [H, W, 3]."""
        return np.asarray(Image.open(self.download(to)).convert("RGB"))
