# SPDX-License-Identifier: Apache-2.0
"""What a person does with the page, and that they get what the pipeline computes, to the pixel."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from coltran.photo.hints import Box, Hint
from coltran.pipeline import Colorized, Pipeline
from coltran.sampling.assess import assess
from tests.web.visitor import Visitor

DEMO = Path(__file__).resolve().parents[2] / "coltran" / "demo"
Note = Callable[[str, object], None]
PATIENCE = 60_000  # milliseconds
CHANGED = "before => document.querySelector('#gallery img') && document.querySelector('#gallery img').src != before"
LIKE = {"seed": 0, "top_p": 0.9}  # the page's settings


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photograph of 600 x 450 pixels, in a format that loses nothing."""
    path = tmp_path / "tulips.png"
    Image.open(DEMO / "tulips.jpg").convert("RGB").resize((600, 450), box=(20, 40, 220, 190)).save(path)
    return path


@pytest.fixture
def small_photo(tmp_path: Path, photo: Path) -> Path:
    """The same of 200 x 150 pixels, which the browser shows with less work while colours are drawn."""
    Image.open(photo).resize((200, 150)).save(tmp_path / "small.png")
    return tmp_path / "small.png"


WATCH = """() => {
    window.shown = [];
    new MutationObserver(() => {
        const photo = document.querySelector("#photo img");
        if (photo && !shown.some(one => one.source == photo.src))
            shown.push({source: photo.src, at: performance.now()});
    }).observe(document.body, {subtree: true, childList: true, attributes: true, attributeFilter: ["src"]});
    return performance.now();
}"""


# Types a seed the moment that a drawing's last pictures are shown, before the page hears that it has ended.
TYPE_AT_THE_END = """() => new MutationObserver((_, watch) => {
    if (document.querySelector("#gallery img")) {
        watch.disconnect();
        const seed = document.querySelector("#seed input");
        seed.value = 5;
        seed.dispatchEvent(new Event("input", {bubbles: true}));
    }
}).observe(document.body, {subtree: true, childList: true})"""


def screenshot(page: Page, name: str, part: str = "") -> None:
    """Keeps a picture of the page, or of a part of it, where SCREENSHOTS names a folder."""
    if folder := os.environ.get("SCREENSHOTS"):
        if part:
            page.locator(part).screenshot(path=Path(folder) / name, type="jpeg")
        else:
            page.screenshot(path=Path(folder) / name, full_page=True)


def upload(page: Page, photo: Path) -> None:
    page.set_input_files("#upload input[type=file]", photo)
    page.wait_for_selector("#photo img", timeout=PATIENCE)


def open_settings(page: Page) -> None:
    page.get_by_role("button", name="Settings").press("Enter")
    page.wait_for_timeout(500)  # what is typed within 25 ms of a field's appearance, gradio sets back


def wait_for_colourings(page: Page, count: int = 4) -> None:
    expect(page.locator("#gallery img")).to_have_count(count, timeout=PATIENCE)
    page.wait_for_selector("#download:not([disabled])", timeout=PATIENCE)


def downloaded(page: Page, to: Path) -> np.ndarray:
    with page.expect_download(timeout=PATIENCE) as found:
        page.click("#download")
    found.value.save_as(to)
    return np.asarray(Image.open(to).convert("RGB"))


def likeliest(found: Colorized) -> np.ndarray:
    return found.images[int(np.argmax(found.log_prob))]


def click_photo(page: Page, x: float, y: float) -> None:
    """Clicks at a place of the photograph, as shares of its width and height."""
    size = page.locator("#photo img").bounding_box()
    assert size is not None
    page.mouse.click(size["x"] + x * size["width"], size["y"] + y * size["height"])


def colour_again(page: Page, button: str) -> None:
    before = page.locator("#gallery img").first.get_attribute("src")
    page.click(button)
    page.wait_for_function(CHANGED, arg=before, timeout=PATIENCE)


def test_a_photograph_is_coloured_row_by_row_and_fetched_as_the_pipeline_makes_it(
    page: Page, photo: Path, pipeline: Pipeline, tmp_path: Path
) -> None:
    page.evaluate(WATCH)
    upload(page, photo)
    wait_for_colourings(page)
    assert page.evaluate("shown.length") >= 3, "the gray photograph and at least two states of its colours"
    screenshot(page, "page.png")
    expected = likeliest(pipeline(photo, samples=4, **LIKE))
    np.testing.assert_array_equal(downloaded(page, tmp_path / "found.png"), expected)
    assert "bits a pixel" in str(Image.open(tmp_path / "found.png").getexif().get(270))


def test_another_colouring_of_the_gallery_is_fetched(
    page: Page, photo: Path, pipeline: Pipeline, tmp_path: Path
) -> None:
    upload(page, photo)
    wait_for_colourings(page)
    before = page.locator("#slider img").evaluate_all("all => all.map(one => one.src)")
    page.locator("#gallery img").nth(3).click()
    page.wait_for_function(
        "before => [...document.querySelectorAll('#slider img')].some(one => !before.includes(one.src))",
        arg=before, timeout=PATIENCE,
    )  # fmt: skip
    found = pipeline(photo, samples=4, **LIKE)
    last = found.images[int(np.argmin(found.log_prob))]
    np.testing.assert_array_equal(downloaded(page, tmp_path / "found.png"), last)


def test_a_hint_is_followed(page: Page, photo: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    upload(page, photo)
    wait_for_colourings(page)
    click_photo(page, 0.5, 0.5)
    page.wait_for_selector("#swatches img", timeout=PATIENCE)  # the model offers colours
    page.click("#hint")
    page.wait_for_timeout(500)
    colour_again(page, "#colour")
    screenshot(page, "hint.jpg", "#photo")
    expected = likeliest(pipeline(photo, hints=[Hint(300, 225, (0xB0, 0x60, 0x40))], samples=4, **LIKE))
    np.testing.assert_array_equal(downloaded(page, tmp_path / "found.png"), expected)


def test_a_part_is_drawn_again(page: Page, photo: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    upload(page, photo)
    wait_for_colourings(page)
    page.get_by_label("marks a corner of the part to draw again").check()
    click_photo(page, 0.25, 0.5)
    page.wait_for_timeout(700)
    click_photo(page, 0.75, 0.9)
    page.wait_for_timeout(700)
    open_settings(page)
    page.fill("#seed input", "5")
    colour_again(page, "#redraw")
    first = pipeline(photo, samples=4, **LIKE)
    kept = first.labels[int(np.argmax(first.log_prob))]
    box = Box(150, 225, 451, 406)
    expected = likeliest(pipeline(photo, kept=kept, redraw=box, samples=4, seed=5, top_p=0.9))
    np.testing.assert_array_equal(downloaded(page, tmp_path / "found.png"), expected)


def test_overlays_show_where_the_model_was_unsure_and_surprised(page: Page, photo: Path) -> None:
    upload(page, photo)
    wait_for_colourings(page)
    seen = {page.get_attribute("#photo img", "src")}
    for name in ("where the model was unsure", "what surprises it in this colouring"):
        page.get_by_label(name).check()
        page.wait_for_function(
            "seen => !seen.includes(document.querySelector('#photo img').src)", arg=list(seen), timeout=PATIENCE
        )
        seen.add(page.get_attribute("#photo img", "src"))
        screenshot(page, "unsure.jpg" if "unsure" in name else "surprising.jpg", "#photo")
    assert len(seen) == 3


def test_a_seed_typed_before_a_drawing_has_ended_is_that_of_the_next(
    page: Page, photo: Path, pipeline: Pipeline, tmp_path: Path
) -> None:
    open_settings(page)
    page.evaluate(TYPE_AT_THE_END)
    upload(page, photo)
    wait_for_colourings(page)
    colour_again(page, "#colour")
    expected = likeliest(pipeline(photo, samples=4, seed=5, top_p=0.9))
    np.testing.assert_array_equal(downloaded(page, tmp_path / "found.png"), expected)


def test_a_new_seed_is_said_with_its_colourings_and_leaves_the_setting(
    page: Page, photo: Path, pipeline: Pipeline, tmp_path: Path
) -> None:
    open_settings(page)
    page.get_by_label("A new seed every time").check()
    upload(page, photo)
    wait_for_colourings(page)
    said = re.search(r"of seed (\d+)", page.locator("#gallery").inner_text())
    assert said is not None
    expected = likeliest(pipeline(photo, samples=4, seed=int(said[1]), top_p=0.9))
    np.testing.assert_array_equal(downloaded(page, tmp_path / "found.png"), expected)
    expect(page.locator("#seed input")).to_have_value("0")


def drawing() -> bool:
    return any(thread.name.startswith("drawing") for thread in threading.enumerate())


def in_order(seconds: list[float]) -> str:
    return ", ".join(f"{one:.2f}" for one in sorted(seconds))


def wait_until_drawing(page: Page) -> None:
    open_settings(page)
    page.fill("#samples input[type=number]", "32")
    page.click("#colour")
    for _ in range(600):
        if drawing():
            return
        page.wait_for_timeout(20)
    raise AssertionError("nothing is drawn")


def time_until_free(page: Page | None) -> float:
    start = time.monotonic()
    while drawing() and time.monotonic() - start < 60:
        if page is None:
            time.sleep(0.02)
        else:
            page.wait_for_timeout(20)
    return time.monotonic() - start


def test_stop_ends_the_drawing_and_the_next_one_works(page: Page, small_photo: Path, crowd: float) -> None:
    upload(page, small_photo)
    wait_for_colourings(page)
    wait_until_drawing(page)
    page.click("#stop")
    assert time_until_free(page) < 1 * crowd
    page.fill("#samples input[type=number]", "2")
    page.click("#colour")
    wait_for_colourings(page, 2)


def test_someone_who_leaves_frees_their_work_within_a_second(
    page: Page, small_photo: Path, server: str, crowd: float, record_property: Note
) -> None:
    seconds = []
    for _ in range(3):
        page.goto(server)
        upload(page, small_photo)
        wait_for_colourings(page)
        wait_until_drawing(page)
        start = time.monotonic()
        page.goto("about:blank")
        time_until_free(None)
        seconds.append(time.monotonic() - start)
    record_property("seconds until who leaves has freed their work", in_order(seconds))
    assert max(seconds) < 1 * crowd


def test_stop_ends_what_waits_too(page: Page, small_photo: Path, server: str) -> None:
    visitor = Visitor(server)
    assert visitor.open(visitor.upload(small_photo).json()[0]) == "done"
    first = threading.Thread(target=visitor.draw, args=(16,))
    upload(page, small_photo)
    wait_for_colourings(page)
    before = page.locator("#gallery img").first.get_attribute("src")
    open_settings(page)
    page.fill("#seed input", "9")
    first.start()
    while not drawing():
        page.wait_for_timeout(20)
    page.click("#colour")
    page.wait_for_timeout(500)
    page.click("#stop")
    first.join()
    page.wait_for_timeout(1500)  # in which four colourings would be there
    assert page.locator("#gallery img").first.get_attribute("src") == before and not drawing()


def test_another_photograph_takes_the_place_of_one_that_is_drawn(
    page: Page, photo: Path, small_photo: Path, pipeline: Pipeline, tmp_path: Path
) -> None:
    upload(page, small_photo)
    wait_for_colourings(page)
    wait_until_drawing(page)
    page.fill("#samples input[type=number]", "2")
    page.get_by_label("Remove").or_(page.get_by_label("Clear")).first.click()
    page.wait_for_selector("#upload input[type=file]", state="attached", timeout=PATIENCE)
    page.set_input_files("#upload input[type=file]", photo)
    wait_for_colourings(page, 2)
    found = downloaded(page, tmp_path / "found.png")
    np.testing.assert_array_equal(found, likeliest(pipeline(photo, samples=2, **LIKE)))


def test_a_photograph_that_is_removed_leaves_nothing_of_it(page: Page, photo: Path) -> None:
    upload(page, photo)
    wait_for_colourings(page)
    page.locator("#upload").get_by_label("Clear").or_(page.locator("#upload").get_by_label("Remove")).first.click()
    expect(page.locator("#gallery img")).to_have_count(0, timeout=PATIENCE)
    expect(page.locator("#slider img")).to_have_count(0, timeout=PATIENCE)
    expect(page.locator("#download")).to_be_disabled(timeout=PATIENCE)
    page.wait_for_timeout(1000)
    expect(page.get_by_text("Error", exact=True)).to_have_count(0)


def test_what_is_shown_is_of_the_colouring_that_is_chosen(page: Page, photo: Path) -> None:
    upload(page, photo)
    wait_for_colourings(page)
    page.get_by_label("what surprises it in this colouring").check()
    page.wait_for_timeout(2000)
    shown = page.get_attribute("#photo img", "src")
    page.locator("#gallery img").nth(3).click()
    page.wait_for_function("was => document.querySelector('#photo img').src != was", arg=shown, timeout=PATIENCE)


def test_a_click_while_colours_appear_marks_nothing(page: Page, small_photo: Path) -> None:
    upload(page, small_photo)
    wait_for_colourings(page)
    wait_until_drawing(page)
    page.wait_for_timeout(1000)
    click_photo(page, 0.5, 0.5)
    expect(page.get_by_text("still being drawn")).to_be_visible(timeout=PATIENCE)
    page.click("#stop")
    time_until_free(page)
    expect(page.locator("#x input")).to_have_value("")


def test_the_first_colours_are_on_screen_within_two_seconds(
    page: Page, tmp_path: Path, server: str, crowd: float, record_property: Note
) -> None:
    """From the choice of a photograph of a megapixel on."""
    Image.open(DEMO / "tulips.jpg").resize((1000, 1000)).save(tmp_path / "large.jpg")
    seconds = []
    for _ in range(3):
        page.goto(server)
        page.wait_for_selector("#upload input[type=file]", state="attached", timeout=PATIENCE)
        start = page.evaluate(WATCH)
        page.set_input_files("#upload input[type=file]", tmp_path / "large.jpg")
        page.wait_for_function("shown.length > 1", timeout=PATIENCE)  # the first is gray
        seconds.append((page.evaluate("shown[1].at") - start) / 1000)
        wait_for_colourings(page)
    record_property("seconds until the first colours", in_order(seconds))
    assert min(seconds) < 2 * crowd


def test_the_page_fits_a_phone(page: Page, photo: Path) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    upload(page, photo)
    wait_for_colourings(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    screenshot(page, "phone.png")


def test_the_page_works_by_keyboard(page: Page, photo: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    """A photograph is chosen, a colour that the model offers is wished, and the result fetched."""
    free = pipeline(photo, samples=4, **LIKE)
    offered = assess(pipeline.colorizer, pipeline.look(photo), free.labels).plausible(100, 75)
    wished = [likeliest(pipeline(photo, hints=[Hint(100, 75, colour)], samples=4, **LIKE)) for colour, _ in offered]
    n = next(n for n, found in enumerate(wished) if not np.array_equal(found, likeliest(free)))  # it may have one there
    with page.expect_file_chooser() as choosing:
        page.locator("#upload button").first.press("Enter")
    choosing.value.set_files(photo)
    wait_for_colourings(page)
    page.locator("#x input").press_sequentially("100")
    page.locator("#y input").press_sequentially("75")
    page.keyboard.press("Enter")
    page.wait_for_selector("#swatches img", timeout=PATIENCE)
    page.locator("#swatches button").nth(n).press("Enter")
    page.wait_for_timeout(1000)
    page.locator("#hint").press("Enter")
    page.wait_for_timeout(500)
    before = page.locator("#gallery img").first.get_attribute("src")
    page.locator("#colour").press("Enter")
    page.wait_for_function(CHANGED, arg=before, timeout=PATIENCE)
    with page.expect_download(timeout=PATIENCE) as found:
        page.locator("#download").press("Enter")
    found.value.save_as(tmp_path / "found.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "found.png").convert("RGB")), wished[n])


def test_the_settings_work_by_keyboard(page: Page, photo: Path) -> None:
    upload(page, photo)
    wait_for_colourings(page)
    before = page.locator("#gallery img").first.get_attribute("src")
    open_settings(page)
    page.fill("#seed input", "9")
    page.locator("#colour").focus()
    page.keyboard.press("Enter")
    page.wait_for_function(CHANGED, arg=before, timeout=PATIENCE)


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("damaged.png", lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)), "is not an image"),
        ("wide.png", lambda path: Image.new("L", (1200, 1000)).save(path), "1.2 megapixels; this page takes up to 1"),
    ],
)
def test_what_is_refused_is_refused_in_a_sentence(
    page: Page, tmp_path: Path, name: str, make: Callable[[Path], object], says: str
) -> None:
    make(tmp_path / name)
    page.set_input_files("#upload input[type=file]", tmp_path / name)
    expect(page.get_by_text(says)).to_be_visible(timeout=PATIENCE)
