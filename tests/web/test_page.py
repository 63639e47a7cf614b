# SPDX-License-Identifier: Apache-2.0
"""What a person does with the page, in how many clicks, and that they get what the pipeline computes, to the pixel."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from coltran.page.serve import Studio
from coltran.page.session import Session
from coltran.pipeline import Pipeline
from tests.web.person import PATIENCE, Person
from tests.web.visitor import Visitor

Note = Callable[[str, object], None]
Held = Callable[[], Callable[[], None]]
LIKE: dict[str, Any] = {"samples": 4, "best": 4, "top_p": 0.9, "seed": 0}  # as the page draws


def session_of(person: Person, studio: Studio) -> Session:
    kept = json.loads(person.page.evaluate("localStorage.coltran"))
    return studio.sessions[kept["now"]]


def drawing() -> bool:
    return any(thread.name == "drawing" for thread in threading.enumerate())


def wait_until_free(person: Person | None) -> float:
    """The seconds until nothing is drawn."""
    start = time.monotonic()
    while drawing():
        assert time.monotonic() - start < PATIENCE / 1000, "the drawing goes on"
        if person is None:
            time.sleep(0.02)
        else:
            person.page.wait_for_timeout(20)
    return time.monotonic() - start


def test_a_photograph_is_coloured_in_one_click_and_fetched_in_two(
    person: Person, photo: Path, pipeline: Pipeline, tmp_path: Path, held: Held
) -> None:
    release = held()
    with person.page.expect_file_chooser() as choosing:
        person.click("#drop")
    choosing.value.set_files(photo)
    expect(person.page.locator("#tiles img")).to_have_count(4)  # while they are drawn
    release()
    person.wait(4)
    found = person.picture(tmp_path / "found.png")
    np.testing.assert_array_equal(found, pipeline(photo, **LIKE).images[0])
    assert person.clicks == 2
    assert "bits a pixel" in " ".join(map(str, Image.open(tmp_path / "found.png").text.values()))


def test_a_photograph_of_the_first_screen_is_coloured_in_one_click(person: Person) -> None:
    person.click("#demo button >> nth=3")
    person.wait(4)
    assert person.clicks == 1


def test_the_first_is_finished_before_the_others_are_begun(server: str, photo: Path) -> None:
    visitor = Visitor(server)
    visitor.open(photo)
    with visitor.drawing(samples=3) as told:
        steps = [one["coloring"]["number"] if "coloring" in one else -one["done"] for one in told
                 if "coloring" in one or one.get("stage") == "finish"]  # fmt: skip
    assert [step for step in steps if step > 0] == [1, 2, 3]
    assert -1 not in steps[: steps.index(1)]


def test_another_colouring_is_fetched_in_two_clicks_more(
    person: Person, photo: Path, pipeline: Pipeline, tmp_path: Path
) -> None:
    person.choose(photo)
    person.click("#strip button >> nth=3")
    found = person.picture(tmp_path / "found.png")
    np.testing.assert_array_equal(found, pipeline(photo, **LIKE).images[3])
    assert person.clicks == 3


def test_other_colours_come_beside_the_earlier_ones(person: Person, photo: Path, studio: Studio) -> None:
    person.choose(photo)
    person.click("#others")
    person.wait(8)
    assert person.clicks == 2 and person.chosen() == 5
    colorings = list(session_of(person, studio).colorings.values())
    assert len({one.options["seed"] for one in colorings}) == 2
    person.click("#undo")
    assert person.chosen() == 1


def test_a_hint_recolours_what_is_like_it_in_two_clicks_and_is_undone_and_redone(
    person: Person, photo: Path, studio: Studio
) -> None:
    person.choose(photo)
    person.spot(0.5, 0.5)
    expect(person.page.locator("#swatches button")).to_have_count(6)
    assert "%" in person.page.locator("#swatches").inner_text()
    color = person.page.locator("#swatches button >> nth=5").get_attribute("aria-label")
    person.click("#swatches button >> nth=5")
    person.wait(5)
    assert person.clicks == 3 and person.chosen() == 5
    session = session_of(person, studio)
    before, after = session.colorings[1], session.colorings[5]
    assert color is not None and after.hints[0]["color"] == color.split(",")[0]
    strokes = [[tuple(point) for point in after.hints[0]["points"]]]
    assert strokes == [[(300, 225)]]
    changed = np.argwhere(before.labels != after.labels)
    assert len(changed) and after.options["particles"] > 1
    person.click("#undo")
    assert person.chosen() == 1
    expect(person.page.locator("#dots button")).to_have_count(0)
    person.click("#redo")
    assert person.chosen() == 5
    expect(person.page.locator("#dots button")).to_have_count(1)


def test_any_colour_can_be_picked_and_is_offered_again(person: Person, photo: Path) -> None:
    person.choose(photo)
    person.spot(0.3, 0.3)
    person.page.locator("#any").fill("#1030e0")
    person.click("#use")
    person.wait(5)
    person.spot(0.7, 0.7)
    person.click("#recent button")
    person.wait(6)
    labels = person.page.locator("#dots button").evaluate_all("all => all.map(one => one.ariaLabel)")
    assert all("#1030e0" in label for label in labels) and len(labels) == 2


def test_a_stroke_is_many_dabs(person: Person, photo: Path, studio: Studio) -> None:
    person.choose(photo)
    person.drag((0.2, 0.5), (0.5, 0.4), (0.8, 0.5))
    person.page.wait_for_selector("#swatches button")
    person.click("#swatches button >> nth=0")
    person.wait(5)
    (stroke,) = session_of(person, studio).colorings[5].hints
    assert len(stroke["points"]) > 4 and stroke["radius"] > 0
    assert person.clicks == 3


def test_a_hint_is_moved_by_dragging_and_removed_by_delete(person: Person, photo: Path, studio: Studio) -> None:
    person.choose(photo)
    person.spot(0.5, 0.5)
    person.click("#swatches button >> nth=0")
    person.wait(5)
    person.drag((0.5, 0.5), (0.25, 0.75))
    person.wait(6)
    x, y = session_of(person, studio).colorings[6].hints[0]["points"][0]
    assert abs(x - 150) <= 3 and abs(y - 337) <= 3
    person.page.locator("#dots button").press("Delete")
    person.wait(7)
    assert session_of(person, studio).colorings[7].hints == []
    expect(person.page.locator("#dots button")).to_have_count(0)


def test_an_area_is_recoloured_by_one_drag_and_nothing_else_is(person: Person, photo: Path, studio: Studio) -> None:
    person.choose(photo)
    person.click("[data-tool=area]")
    for count in (5, 6):
        person.drag((0.26, 0.26), (0.49, 0.49))
        person.wait(count)
        session = session_of(person, studio)
        differs = session.colorings[count].labels != session.colorings[1 if count == 5 else 5].labels
        assert differs[2:4, 2:4].any()
        differs[2:4, 2:4] = False
        assert not differs.any()


def test_an_area_differs_from_before_though_every_seed_draws_the_same(
    server: str, studio: Studio, photo: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    colorize = pipeline.colorize
    monkeypatch.setattr(
        pipeline, "colorize", lambda *given, **options: colorize(*given, **options | {"mode": "argmax", "seed": 0})
    )
    visitor = Visitor(server)
    visitor.open(photo)
    assert visitor.draw() == "done"
    for base in (1, 2):
        assert visitor.draw(base=base, box=[100, 100, 101, 101]) == "done"
    labels = [one.labels for one in studio.sessions[visitor.key].colorings.values()]
    assert (labels[0] != labels[1]).any() and (labels[1] != labels[2]).any()


def test_adjustments_need_no_networks(
    person: Person, photo: Path, pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person.choose(photo)
    person.page.locator("#restore").check()
    expect(person.page.locator("#download")).to_have_attribute("href", re.compile("restore=1"))
    restored = person.picture(tmp_path / "restored.png")
    np.testing.assert_array_equal(restored, pipeline(photo, levels="restore", **LIKE).images[0])
    monkeypatch.setattr(pipeline, "colorize", None)
    person.page.locator("#saturation").fill("0")
    expect(person.page.locator("#download")).to_have_attribute("href", re.compile("saturation=0&"))
    gray = person.picture(tmp_path / "gray.png").astype(int)
    assert np.ptp(gray, axis=-1).max() == 0 < np.ptp(restored, axis=-1).max()
    person.page.locator("#warmth").fill("1")
    expect(person.page.locator("#download")).to_have_attribute("href", re.compile("warmth=1&"))
    warm = person.picture(tmp_path / "warm.png").astype(int)
    assert (warm[..., 0] - warm[..., 2]).mean() > 20


def test_a_border_stays_neutral_unless_its_colours_are_asked_for(server: str, photo: Path, tmp_path: Path) -> None:
    framed = Image.new("RGB", (700, 550), (236, 236, 236))
    framed.paste(Image.open(photo), (50, 50))
    framed.save(tmp_path / "framed.png")
    visitor = Visitor(server)
    visitor.open(tmp_path / "framed.png")
    assert visitor.fetch("").json()["bordered"] and visitor.draw() == "done"
    chroma = []
    for border in (0, 1):
        content = visitor.fetch(f"/1/download?border={border}&saturation=2").content
        pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
        chroma.append(np.ptp(pixels, axis=-1)[:40].max())
    assert chroma[0] == 0 < chroma[1]


def test_several_photographs_become_one_archive(
    person: Person, photo: Path, pipeline: Pipeline, tmp_path: Path
) -> None:
    other = tmp_path / "moose.png"
    Image.open(photo).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(other)
    person.choose(photo, other)
    expect(person.page.locator("#queue img")).to_have_count(2)
    expect(person.page.locator("#stop")).to_be_hidden()
    with zipfile.ZipFile(person.download(tmp_path / "found.zip", "#zip")) as archive:
        assert archive.namelist() == ["tulips-coloured.png", "moose-coloured.png"]
        for name, path in zip(archive.namelist(), (photo, other), strict=True):
            found = np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
            np.testing.assert_array_equal(found, pipeline(path, **LIKE).images[0])
    assert person.clicks == 2


def test_a_refresh_keeps_everything(person: Person, photo: Path) -> None:
    person.choose(photo)
    person.spot(0.5, 0.5)
    person.click("#swatches button >> nth=1")
    person.wait(5)
    person.page.locator("#saturation").fill("1.5")
    person.page.reload()
    person.wait(5)
    assert person.chosen() == 5
    expect(person.page.locator("#dots button")).to_have_count(1)
    expect(person.page.locator("#saturation")).to_have_value("1.5")


def begin(person: Person, photo: Path, held: Held) -> Callable[[], None]:
    """Has a photograph coloured, and draws others on and on; returns what lets these go on."""
    person.choose(photo)
    release = held()
    person.click("#others")
    expect(person.page.locator("#said")).to_have_text("Drawing colours")
    assert drawing()
    return release


def test_stop_is_acknowledged_at_once_ends_the_drawing_and_the_next_one_works(
    person: Person, photo: Path, held: Held, record_property: Note
) -> None:
    release = begin(person, photo, held)
    said = "document.getElementById('stop').click(), document.getElementById('said').textContent"
    assert person.page.evaluate(said) == "Stopped"  # in the same moment, on any machine
    expect(person.page.locator("#stop")).to_be_hidden()
    record_property("seconds until Stop has ended the work", f"{wait_until_free(person):.2f}")
    release()
    person.click("#others")
    person.wait(8)


def test_a_drawing_that_is_stopped_before_its_first_colours_can_be_begun_again(
    person: Person, photo: Path, held: Held
) -> None:
    release = held()
    with person.page.expect_file_chooser() as choosing:
        person.click("#drop")
    choosing.value.set_files(photo)
    expect(person.page.locator("#tiles img")).to_have_count(4)
    person.click("#stop")
    expect(person.page.locator("#tiles")).to_be_hidden()
    release()
    person.click("#others")
    person.wait(4)


def test_someone_who_leaves_frees_their_work(person: Person, photo: Path, held: Held, record_property: Note) -> None:
    begin(person, photo, held)
    person.page.goto("about:blank")
    record_property("seconds until who leaves has freed their work", f"{wait_until_free(None):.2f}")


def test_who_waits_is_told_how_many_are_before_and_stop_ends_that_too(
    person: Person, photo: Path, server: str, held: Held
) -> None:
    person.choose(photo)
    visitor = Visitor(server)
    visitor.open(photo)
    release = held()
    first = threading.Thread(target=visitor.draw)
    first.start()
    while not drawing():
        person.page.wait_for_timeout(20)
    person.click("#others")
    expect(person.page.locator("#said")).to_have_text("Waiting: 1 before you")
    person.click("#stop")
    expect(person.page.locator("#said")).to_have_text("Stopped")
    release()
    first.join()
    assert visitor.draw() == "done"  # which came after what was stopped
    person.wait(4)


def test_a_newer_hint_takes_the_place_of_one_that_is_drawn(person: Person, photo: Path, held: Held) -> None:
    person.choose(photo)
    release = held()
    for x in (0.3, 0.7):
        person.spot(x, 0.5)
        person.click("#swatches button >> nth=0")
        expect(person.page.locator("#said")).to_have_text("Drawing colours")
    release()
    person.wait(5)
    expect(person.page.locator("#dots button")).to_have_count(2)


def test_a_new_photograph_leaves_nothing_of_the_one_before(
    person: Person, photo: Path, studio: Studio, held: Held
) -> None:
    begin(person, photo, held)
    session = session_of(person, studio)
    person.click("#new")
    expect(person.page.locator("#start")).to_be_visible()
    wait_until_free(person)
    while session.path.exists():
        person.page.wait_for_timeout(20)
    assert session.key not in studio.sessions
    person.page.reload()
    expect(person.page.locator("#start")).to_be_visible()


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_photograph_that_is_dropped_or_pasted_is_taken(person: Person, photo: Path, way: str) -> None:
    person.page.evaluate(
        """([content, way]) => { const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(atob(content), one => one.charCodeAt())], "a.png"));
        document.body.dispatchEvent(way == "drop" ? new DragEvent("drop", {dataTransfer: data, bubbles: true})
            : new ClipboardEvent("paste", {clipboardData: data, bubbles: true})); }""",
        [base64.b64encode(photo.read_bytes()).decode(), way],
    )
    person.wait(4)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)), "is not an image"),
        (lambda path: Image.new("L", (1200, 1000)).save(path), "1.2 megapixels; this page takes up to 1"),
    ],
)
def test_what_is_refused_is_said_in_one_place_and_the_rest_is_coloured(
    person: Person, photo: Path, tmp_path: Path, make: Callable[[Path], object], says: str
) -> None:
    make(tmp_path / "bad.png")
    person.choose(tmp_path / "bad.png", photo)
    expect(person.page.locator("#problem")).to_contain_text(says)
    expect(person.page.get_by_text(says)).to_have_count(1)
    person.click("#problem button")
    expect(person.page.locator("#problem")).to_be_hidden()


def test_a_photograph_that_is_gone_is_said(person: Person, photo: Path, studio: Studio) -> None:
    person.choose(photo)
    studio.forget(session_of(person, studio))
    person.click("#others")
    expect(person.page.locator("#problem")).to_contain_text("deleted: choose it again")


def test_researchers_get_their_seed_and_see_the_maps(
    person: Person, photo: Path, pipeline: Pipeline, tmp_path: Path
) -> None:
    person.choose(photo)
    person.click("summary")
    person.page.locator("#seed").fill("5")
    person.page.locator("#samples").fill("2")
    person.click("#draw")
    person.wait(6)
    assert "seed 5" in person.page.locator("#known").inner_text()
    seen = set()
    for name in ("unsure", "surprising"):
        with person.page.expect_response(f"**/{name}.map") as found:
            person.page.locator(f"[name=map][value={name}]").check()
        seen.add(found.value.body())
        expect(person.page.locator("#legend")).to_be_visible()
    assert len(seen) == 2
    expected = pipeline(photo, samples=2, best=2, seed=5, top_p=0.9).images[0]
    np.testing.assert_array_equal(person.picture(tmp_path / "found.png"), expected)


def test_a_spot_and_an_area_can_be_named_in_pixels(person: Person, photo: Path, studio: Studio) -> None:
    person.choose(photo)
    person.click("summary")
    for name, value in zip("xywh", (160, 120, 200, 150), strict=True):
        person.page.locator(f"#{name}").fill(str(value))
    person.click("#again")
    person.wait(5)
    session = session_of(person, studio)
    assert (session.colorings[5].labels != session.colorings[1].labels).any()
    person.click("#there")
    person.page.wait_for_selector("#swatches button")
    person.click("#swatches button >> nth=0")
    person.wait(6)
    assert session.colorings[6].hints[0]["points"] == [[160, 120]]


def test_the_handle_uncovers_the_gray(person: Person, photo: Path) -> None:
    person.choose(photo)
    person.page.locator("#compare").press("End")
    assert person.page.locator("#compare").get_attribute("aria-valuenow") == "100"
    person.drag((0.98, 0.5), (0.4, 0.5))
    assert abs(int(person.page.locator("#compare").get_attribute("aria-valuenow") or 0) - 40) <= 2
    assert person.page.locator("#colored").evaluate("one => getComputedStyle(one).clipPath").startswith("inset(0px 0px")


def test_the_stage_and_the_result_are_on_the_first_screen(person: Person, photo: Path) -> None:
    person.choose(photo)
    assert person.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for part in ("#stage", "#download"):
        box = person.page.locator(part).bounding_box()
        assert box is not None and box["y"] >= 0 and box["y"] + box["height"] <= person.page.viewport_size["height"]
