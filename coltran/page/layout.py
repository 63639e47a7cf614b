# SPDX-License-Identifier: Apache-2.0
"""What is laid out where on the page, and what happens when something on it is used."""

from __future__ import annotations

import functools
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image, ImageDraw

from coltran.checkpoint import CheckpointError
from coltran.errors import UserError
from coltran.image import PhotoError
from coltran.page import sitting as at
from coltran.page.live import Stopped
from coltran.page.sitting import Sitting
from coltran.photo.hints import Hint
from coltran.photo.recolour import luminance
from coltran.pipeline import Pipeline

THEME = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])  # nothing to fetch
COLOURINGS = "Colourings, likeliest first (bits a pixel)"
HINT, CORNER = "puts a hint there", "marks a corner of the part to draw again"
PHOTO, UNSURE, SURPRISING = "the photograph", "where the model was unsure", "what surprises it in this colouring"
OPENED, ASKED, AGAIN = "opened", "asked", "again"  # why something is drawn
SWATCH = 64  # pixels a side
KEPT = 3600  # seconds that what nobody uses is kept
Update = Any  # of a component


def _said(error: Exception) -> gr.Error:
    return gr.Error(str(error), duration=10, print_exception=False)


def rgb_of(colour: str) -> tuple[int, int, int]:
    """A colour as the picker gives it, "#rrggbb" or "rgba(r, g, b, a)", as numbers of 0..255."""
    if found := re.fullmatch(r"#([0-9a-fA-F]{6})", colour):
        red, green, blue = bytes.fromhex(found[1])
        return red, green, blue
    if found := re.fullmatch(r"rgba?\(([\d.]+), *([\d.]+), *([\d.]+).*\)", colour):
        red, green, blue = (min(255, round(float(part))) for part in found.groups())
        return red, green, blue
    raise gr.Error(f"{colour} is no colour such as #c03020.", print_exception=False)


def seed_of(number: float | None) -> int:
    """The seed that a person has typed."""
    if number is None or not 0 <= number < 2**64:
        raise gr.Error("The seed has to be a whole number from 0 to 2**64 - 1.", print_exception=False)
    return int(number)


async def _no_address(path: str | Path | None) -> str | None:
    """In place of gradio's own, which fetches what is at an address. What was uploaded lies where it has to."""
    if path is not None and not Path(path).is_file():
        raise gr.Error("This page takes files, not addresses.", print_exception=False)
    return None if path is None else str(path)


class Ticket(threading.Event):
    """Of one drawing: set, it ends it, or keeps it from beginning."""

    begun = False


def marked(now: Sitting, picture: np.ndarray) -> np.ndarray:
    """The picture, of the size of `now.small`, with the hints as dots of their colours and the box as a frame."""
    image = Image.fromarray(picture)
    canvas, scale = ImageDraw.Draw(image), now.small.shape[1] / now.width
    for hint in now.hints:
        x, y = hint.x * scale, hint.y * scale
        canvas.ellipse((x - 7, y - 7, x + 7, y + 7), hint.colour, "white", 2)
    for x, y in now.corners:
        canvas.rectangle((x * scale - 3, y * scale - 3, x * scale + 3, y * scale + 3), "white", "black")
    if now.box is not None:
        canvas.rectangle([edge * scale for edge in now.box], outline="white", width=2)
    return np.asarray(image)


def build(pipeline: Pipeline, *, most_pixels: int, most_samples: int, workers: int) -> gr.Blocks:
    """The page.

    Args:
        pipeline: colours.
        most_pixels: of a photograph.
        most_samples: colourings, and particles, that one may ask for.
        workers: persons that are served at once; the others wait.
    """
    busy: dict[str, Any] = {"concurrency_limit": workers, "concurrency_id": "networks", "api_visibility": "private"}
    quick: dict[str, Any] = {"concurrency_limit": None, "queue": True, "api_visibility": "private"}

    def guarded(action: Callable[..., Any]) -> Callable[..., Any]:
        """The action, whose errors that a person can mend become messages."""

        @functools.wraps(action)  # gradio reads the signature
        def call(*values: Any) -> Any:
            try:
                return action(*values)
            except (UserError, PhotoError, CheckpointError) as error:
                raise _said(error) from error

        return call

    stops: dict[str, set[Ticket]] = {}  # of what is drawn or waits to be, by session

    def asked(request: gr.Request) -> Ticket:
        """What will stop the drawing that is asked for."""
        stopped = Ticket()
        stops.setdefault(str(request.session_hash), set()).add(stopped)
        return stopped

    def halt(request: gr.Request) -> None:
        for stopped in stops.pop(str(request.session_hash), ()):
            stopped.set()

    def opened(path: str | None, before: Sitting | None, request: gr.Request) -> tuple[Any, ...]:
        if before is not None:  # which goes also where the new one cannot be opened
            before.closed = True
        halt(request)
        now = None if path is None else at.open_photo(path, most_pixels)
        picture, gone = None if now is None else now.small, gr.DownloadButton(value=None, interactive=False)
        return now, picture, PHOTO, gr.Gallery([], label=COLOURINGS), None, None, [], None, gone, asked(request)

    def drawn(
        now: Sitting | None, why: str, ticket: Ticket | None, samples: float | None, particles: float | None,
        temperature: float | None, top_p: float | None, seed: float | None, fresh: bool, what: str,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:  # fmt: skip
        unchanged, stopped = (gr.skip(),) * 5, ticket or asked(request)
        # Ended before it began; or begun by another event, that waited until the photograph was there; or removed.
        if stopped.is_set() or stopped.begun or (now is None and why == OPENED):
            yield unchanged
            return
        stopped.begun = True
        if now is None or now.closed:
            raise gr.Error("Choose a photograph first.", print_exception=False)
        if why == AGAIN and (not now.labels or now.box is None):
            raise gr.Error(
                "Mark two corners of the part to draw again, in a photograph that is coloured.", print_exception=False
            )
        if samples is None or particles is None or temperature is None or top_p is None:
            raise gr.Error("A setting is empty.", print_exception=False)
        options = {
            "samples": int(samples), "particles": max(int(particles), int(samples)) if particles > 1 else 1,
            "temperature": temperature, "top_p": top_p, "seed": secrets.randbits(32) if fresh else seed_of(seed),
        }  # fmt: skip
        now.drawing = True
        stops.setdefault(str(request.session_hash), set()).add(stopped)
        try:
            for picture in at.draw(pipeline, now, stopped, redraw=why == AGAIN, **options):
                yield unchanged if now.closed else (gr.skip(), picture, gr.skip(), gr.skip(), gr.skip())
            found = [(one, caption(now, n)) for n, one in enumerate(at.colourings(now))]
            gallery = gr.Gallery(found, label=f"Colourings of seed {options['seed']} (bits a pixel)", selected_index=0)
            yield now, looked(now, what), gallery, *chosen(now)
        except Stopped:
            yield unchanged if now.closed else (now, looked(now, what), gr.skip(), gr.skip(), gr.skip())
        except (UserError, PhotoError) as error:
            raise _said(error) from error
        finally:
            now.drawing = False
            stops.get(str(request.session_hash), set()).discard(stopped)

    def caption(now: Sitting, n: int) -> str:
        return f"{now.bits[n]:.2f} bits"

    def chosen(now: Sitting) -> tuple[Update, Update]:
        pixels, path = at.full(pipeline, now)
        gray = luminance(pixels).round().astype(np.uint8)
        pair = np.repeat(gray[..., None], 3, -1), pixels
        return pair, gr.DownloadButton(value=path, interactive=True)

    def choose(now: Sitting | None, what: str, event: gr.SelectData) -> tuple[Any, ...]:
        if now is None or not 0 <= event.index < len(now.images):  # of a gallery that is gone by now
            return (gr.skip(),) * 4
        if isinstance(event.value, dict) and event.value.get("caption") not in (None, caption(now, event.index)):
            return (gr.skip(),) * 4  # clicked before other colourings took the places of those
        now.chosen = event.index
        return now, *chosen(now), looked(now, what) if what == SURPRISING else gr.skip()

    def placed(now: Sitting | None, means: str, event: gr.SelectData) -> tuple[Any, ...]:
        if now is not None and now.drawing:  # what is shown is not the photograph
            gr.Info("The colours are still being drawn: click when they are there, or after Stop.")
        if now is None or now.drawing:
            return gr.skip(), None, gr.skip(), gr.skip(), gr.skip()
        x, y = now.place(*event.index)
        if means == CORNER:  # at once: the second corner may be clicked before anything that waits is done
            now, picture, _ = pointed(now, means, x, y)
            return now, None, x, y, picture
        return now, (x, y), x, y, gr.skip()

    def clicked(now: Sitting | None, means: str, spot: tuple[int, int] | None) -> tuple[Any, ...]:
        return pointed(now, means, *(spot or (None, None)))

    def pointed(now: Sitting | None, means: str, x: float | None, y: float | None) -> tuple[Any, ...]:
        if now is None or x is None or y is None:
            return (gr.skip(),) * 3
        place = now.inside(x, y)
        if means == CORNER:
            now.corners = [*now.corners, place] if len(now.corners) < 2 else [place]
            return now, marked(now, now.small), gr.skip()
        offered = at.assessment(pipeline, now).plausible(*place) if now.labels else []
        now.offered = [colour for colour, _ in offered]
        swatches = [(np.full((SWATCH, SWATCH, 3), colour, np.uint8), f"{share:.0%}") for colour, share in offered]
        return now, marked(now, now.small), swatches

    def hinted(now: Sitting | None, x: float | None, y: float | None, colour: str) -> tuple[Any, ...]:
        if now is None or x is None or y is None:
            raise gr.Error("Click on the photograph first: the hint is put there.", print_exception=False)
        new = Hint(*now.inside(x, y), rgb_of(colour))
        now.hints = [hint for hint in now.hints if (hint.x, hint.y) != (new.x, new.y)] + [new]
        return now, marked(now, now.small)

    def swatch(now: Sitting | None, event: gr.SelectData) -> Update:
        if now is None or not 0 <= event.index < len(now.offered):
            return gr.skip()
        return "#{:02x}{:02x}{:02x}".format(*now.offered[event.index])

    def cleared(now: Sitting | None) -> tuple[Any, ...]:
        if now is None:
            return now, gr.skip()
        now.hints, now.corners = [], []
        return now, marked(now, now.small)

    def looked(now: Sitting | None, what: str) -> Update:
        if now is None or (what != PHOTO and not now.labels):
            return gr.skip()
        if what == PHOTO:
            return marked(now, now.small)
        return (at.unsure if what == UNSURE else at.surprising)(now, at.assessment(pipeline, now))

    with gr.Blocks(title="ColTran: colours for photographs", analytics_enabled=False) as page:
        now = gr.State(None, time_to_live=KEPT)
        at_opening, at_asking, at_again = gr.State(OPENED), gr.State(ASKED), gr.State(AGAIN)
        ticket, spot = gr.State(None, time_to_live=KEPT), gr.State(None)
        gr.Markdown(
            "# Colours for photographs\nDrop a photograph; its colours appear row by row. Every seed is another "
            "colouring, and the likeliest comes first."
        )
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                upload = gr.File(label="Photograph", file_types=["image"], elem_id="upload", height=120)
                upload.async_move_resource_to_block_cache = _no_address  # type: ignore[method-assign, assignment]
                with gr.Row():
                    colour = gr.Button("Colour", variant="primary", elem_id="colour", min_width=80)
                    stop = gr.Button("Stop", variant="stop", elem_id="stop", min_width=80)
                with gr.Accordion("Hints, and drawing a part again", open=True):
                    means = gr.Radio([HINT, CORNER], value=HINT, label="A click on the photograph", elem_id="means")
                    with gr.Row():
                        x = gr.Number(None, label="x (pixels)", precision=0, minimum=0, min_width=80, elem_id="x")
                        y = gr.Number(None, label="y (pixels)", precision=0, minimum=0, min_width=80, elem_id="y")
                    swatches = gr.Gallery(
                        label="What the model finds plausible there", columns=6, height=120, allow_preview=False,
                        elem_id="swatches", buttons=[],
                    )  # fmt: skip
                    with gr.Row():
                        picker = gr.ColorPicker(
                            label="Colour of the hint", value="#b06040", elem_id="picker", min_width=80
                        )
                        hint = gr.Button("Put the hint", elem_id="hint", min_width=80)
                    with gr.Row():
                        redraw = gr.Button("Draw the part again", elem_id="redraw", min_width=80)
                        clear = gr.Button("Clear", elem_id="clear", min_width=80)
                with gr.Accordion("Settings", open=False):
                    samples = gr.Slider(1, most_samples, 4, step=1, label="Colourings", elem_id="samples")
                    particles = gr.Slider(
                        1, most_samples, 1, step=1, label="Particles", elem_id="particles",
                        info="Above 1, what is drawn before a hint agrees with it too: the more, the better.",
                    )  # fmt: skip
                    temperature = gr.Slider(0.3, 1.5, 1.0, label="Temperature")
                    top_p = gr.Slider(0.1, 1.0, 0.9, label="Top-p", info="1 draws from the plain distribution.")
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="seed")
                    fresh = gr.Checkbox(False, label="A new seed every time", elem_id="fresh")
            with gr.Column(scale=2, min_width=280):
                view = gr.Radio([PHOTO, UNSURE, SURPRISING], value=PHOTO, label="Show", elem_id="view")
                photo = gr.Image(label="Click for hints", interactive=False, elem_id="photo", format="jpeg", buttons=[])
                gallery = gr.Gallery(
                    label=COLOURINGS, columns=4, height="auto", format="jpeg", elem_id="gallery", allow_preview=False,
                    buttons=[],
                )  # fmt: skip
                slider = gr.ImageSlider(
                    label="Gray and coloured", elem_id="slider", format="jpeg", buttons=["fullscreen"]
                )
                download = gr.DownloadButton("Download at full size", interactive=False, elem_id="download")

        settings = [samples, particles, temperature, top_p, seed, fresh, view]
        results = [now, photo, gallery, slider, download]  # no setting: an event's end writes its outputs once more
        fresh_page = [now, photo, view, gallery, x, y, swatches, slider, download, ticket]
        at_once: dict[str, Any] = {"queue": False, "api_visibility": "private"}
        opening = upload.change(guarded(opened), [upload, now], fresh_page, **(busy | {"concurrency_id": "opening"}))
        # "multiple": one that was removed may still be ending when the next is there, and gradio would leave that out.
        opening.success(drawn, [now, at_opening, ticket, *settings], results, trigger_mode="multiple", **busy)
        colour.click(asked, None, ticket, **at_once).then(drawn, [now, at_asking, ticket, *settings], results, **busy)
        redraw.click(asked, None, ticket, **at_once).then(drawn, [now, at_again, ticket, *settings], results, **busy)
        stop.click(halt, **at_once)
        # "always_last": of clicks that come while one is being answered the last one counts.
        gallery.select(guarded(choose), [now, view], [now, slider, download, photo], trigger_mode="always_last", **busy)
        clicking = photo.select(placed, [now, means], [now, spot, x, y, photo], **quick)
        clicking.success(guarded(clicked), [now, means, spot], [now, photo, swatches], **busy)
        gr.on([x.submit, y.submit], guarded(pointed), [now, means, x, y], [now, photo, swatches], **busy)  # by keyboard
        swatches.select(guarded(swatch), now, picker, **quick)
        hint.click(guarded(hinted), [now, x, y, picker], [now, photo], **quick)
        clear.click(guarded(cleared), now, [now, photo], **quick)
        view.change(guarded(looked), [now, view], photo, **busy)
        page.unload(halt)  # the queue alone does not notice who leaves before it has answered them
    return page
