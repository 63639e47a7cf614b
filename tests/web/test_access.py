# SPDX-License-Identifier: Apache-2.0
"""Everything by keyboard, and no violation that axe-core finds: names, contrast, roles, targets of 24 pixels."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from coltran.pipeline import Pipeline
from tests.web.person import Person
from tests.web.test_page import LIKE

AXE = pytest.importorskip("axe_playwright_python", reason="axe-core comes with axe-playwright-python")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def violations(page: Page) -> list[str]:
    """What axe-core has against what is on screen: rule and element."""
    page.evaluate((resources.files(AXE) / "axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("rules => axe.run(document, {runOnly: rules})", RULES)["violations"]
    return [f"{one['id']}: {node['html']} {node['failureSummary']}" for one in found for node in one["nodes"]]


def test_axe_would_find_what_is_wrong(person: Person) -> None:
    person.page.evaluate("document.body.append(document.createElement('img'), document.createElement('button'))")
    assert {one.split(":")[0] for one in violations(person.page)} >= {"image-alt", "button-name"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_any_screen(person: Person, photo: Path, tmp_path: Path, scheme: str) -> None:
    person.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    assert violations(person.page) == []
    (tmp_path / "bad.png").write_bytes(b"nothing")
    person.choose(photo, tmp_path / "bad.png")
    expect(person.page.locator("#problem")).to_be_visible()
    person.click("summary")
    assert violations(person.page) == []
    person.spot(0.5, 0.5)
    assert violations(person.page) == []


def test_the_whole_task_is_done_by_keyboard(person: Person, photo: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    page = person.page
    with page.expect_file_chooser() as choosing:
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
    choosing.value.set_files(photo)
    person.wait(4)

    def tab_to(what: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("what => document.activeElement.matches(what)", what):
                return
        raise AssertionError(f"{what} cannot be reached")

    tab_to("#aim")
    for key in ("ArrowRight", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector("#swatches button")
    expect(page.locator("#swatches button").first).to_be_focused()
    page.keyboard.press("Enter")
    person.wait(5)
    dot = page.locator("#dots button")
    dot.focus()
    before = dot.get_attribute("aria-label")
    page.keyboard.press("ArrowLeft")
    person.wait(6)
    assert dot.get_attribute("aria-label") != before
    dot.focus()
    page.keyboard.press("Delete")
    person.wait(7)
    page.keyboard.press("Control+z")
    assert person.chosen() == 6
    page.locator("#strip button").first.focus()
    page.keyboard.press("Enter")
    page.locator("#download").focus()
    with page.expect_download() as found:
        page.keyboard.press("Enter")
    found.value.save_as(tmp_path / "found.png")
    expected = pipeline(photo, **LIKE).images[0]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "found.png").convert("RGB")), expected)


def test_escape_closes_what_asks_for_a_colour(person: Person, photo: Path) -> None:
    person.choose(photo)
    person.spot(0.5, 0.5)
    person.page.keyboard.press("Escape")
    expect(person.page.locator("#colors")).to_be_hidden()
    expect(person.page.locator("#aim")).to_be_focused()


def test_focus_is_visible(person: Person, photo: Path) -> None:
    person.choose(photo)
    for what in ("#download", "#others", "#saturation", "#strip button", "#aim"):
        person.page.locator(what).first.focus()
        person.page.keyboard.press("Shift")
        width = person.page.locator(what).first.evaluate("one => parseFloat(getComputedStyle(one).outlineWidth)")
        assert width >= 2, what


SMALL = """() => [...document.querySelectorAll("button, a[href], input, summary, [role=slider] b")].filter(one => {
    const box = (one.closest("label.check") || one).getBoundingClientRect();
    return box.width && (box.width < 24 || box.height < 24);
}).map(one => one.outerHTML)"""


def test_every_picture_has_a_text_and_every_target_24_pixels(person: Person, photo: Path) -> None:
    person.choose(photo)
    assert person.page.evaluate(SMALL) == []
    assert person.page.locator("img:not([alt])").count() == 0


def test_targets_have_their_size_before_their_pictures_have_come(person: Person, photo: Path) -> None:
    person.page.route("**/shown.jpg*", lambda route: None)
    person.choose(photo)
    assert person.page.evaluate(SMALL) == []
    sizes = person.page.locator("#strip img").evaluate_all("all => all.map(one => one.offsetWidth / one.offsetHeight)")
    assert sizes == pytest.approx([600 / 450] * 4, rel=0.02)


def test_a_thin_photograph_can_still_be_clicked(person: Person, tmp_path: Path) -> None:
    Image.new("L", (24, 900), 128).save(tmp_path / "thin.png")
    person.choose(tmp_path / "thin.png")
    assert person.page.evaluate(SMALL) == []
