# SPDX-License-Identifier: Apache-2.0
"""The page's server: photographs come in, colourings go out, and what nobody uses is deleted."""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import json
import secrets
import socket
import threading
import time
import zipfile
from collections.abc import AsyncIterator, Callable
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from coltran.errors import UserError
from coltran.image import PhotoError
from coltran.page import session as at
from coltran.page.drawing import Drawing, Line, ending, read_options
from coltran.page.guard import Guard
from coltran.page.session import Adjustment, Coloring, Session
from coltran.photo.overlay import paint
from coltran.pipeline import Pipeline

KEPT = 3600  # seconds that what nobody uses is kept
MOST_SESSIONS = 1000  # of which the one that was not used for longest gives way
TILE = 640  # pixels of the longer side of what is shown while colours appear
SHOWN_AT_ONCE = 4  # colourings while they appear
APART = 0.1  # seconds between two looks at what is drawn
ZIPPED = 200  # photographs
STATIC = resources.files("coltran.page") / "static"
DEMO = Path(str(resources.files("coltran") / "demo"))


def encoded(pixels: np.ndarray, quality: int = 90) -> bytes:
    """A JPEG of uint8 [h, w, 3]."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=quality)
    return content.getvalue()


def refused(error: Exception, status: int = 400) -> JSONResponse:
    """An error as the page shows it."""
    return JSONResponse({"error": str(error)}, status)


class Studio:
    """The sessions of all visitors, and what their browsers may ask for.

    Args:
        pipeline: colours.
        folder: where uploads are.
        options: the command line's.
    """

    def __init__(self, pipeline: Pipeline, folder: Path, options: argparse.Namespace) -> None:
        self.pipeline, self.folder, self.options = pipeline, folder, options
        self.sessions: dict[str, Session] = {}
        self.line = Line(options.workers, options.queue)
        self.server: uvicorn.Server
        self.serving: threading.Thread
        self.rendering = threading.Semaphore(2)  # at full size: a matter of memory

    def session(self, request: Request) -> Session:
        """The session that a request is about, which counts as used now.

        Raises:
            UserError: there is none.
        """
        return self.find(request.path_params["key"])

    def find(self, key: str) -> Session:
        session = self.sessions.get(key)
        if session is None:
            raise UserError("This photograph was not used for an hour, and is deleted: choose it again.")
        session.used = time.time()
        return session

    async def about(self, request: Request) -> Response:
        """What the page says of its limits."""
        names = sorted(path.stem for path in DEMO.glob("*.jpg"))
        asked = self.options
        known = {"demo": names, "megabytes": asked.megabytes, "megapixels": asked.megapixels, "samples": asked.samples}
        return JSONResponse(known | {"guide": self.pipeline.guide is not None})

    async def upload(self, request: Request) -> Response:
        """Takes a photograph: the file is the body, `name` what it is called."""
        name = Path(request.query_params.get("name", "photograph").replace("\\", "/")).name or "photograph"
        path = self.folder / secrets.token_hex(16)
        try:
            with path.open("wb") as file:
                async for part in request.stream():
                    file.write(part)
            session = await run_in_threadpool(at.open_photo, self.pipeline, path, name, self.options.megapixels * 10**6)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self.sessions[session.key] = session
        if len(self.sessions) > MOST_SESSIONS:
            self.forget(min(self.sessions.values(), key=lambda one: one.used))
        return JSONResponse(session.told(), 201)

    def forget(self, session: Session) -> None:
        """Deletes a photograph and all that was made of it."""
        self.sessions.pop(session.key, None)
        session.path.unlink(missing_ok=True)

    def forget_unused(self, seconds: float) -> None:
        """Deletes what was not used for so long."""
        for session in list(self.sessions.values()):
            if time.time() - session.used >= seconds:
                self.forget(session)

    async def tell(self, request: Request) -> Response:
        """What there is of a photograph, for a page that was loaded again."""
        return JSONResponse(self.session(request).told())

    async def remove(self, request: Request) -> Response:
        """Deletes a photograph at once."""
        self.forget(self.session(request))
        return Response(status_code=204)

    async def draw(self, request: Request) -> Response:
        """Draws; the answer is a line of JSON for each thing that happens. Who stops reading it ends the work."""
        session = self.session(request)
        drawing = Drawing(self.pipeline, session, read_options(await request.json(), session, self.options.samples))
        self.line.join(drawing)

        photo = np.ascontiguousarray(session.view.photo)

        def preview() -> list[str]:
            tiles = [drawing.newest[k] for k in sorted(drawing.newest)[:SHOWN_AT_ONCE]]
            pictures = [encoded(paint(photo, one, TILE), 80) for one in tiles]
            return ["data:image/jpeg;base64," + base64.b64encode(one).decode() for one in pictures]

        async def lines() -> AsyncIterator[str]:
            before: tuple[Any, ...] = ()
            try:
                yield json.dumps({"begin": True}) + "\n"
                while True:
                    done = drawing.done  # before the messages are looked at: none comes after it
                    if (waiting := self.line.before(drawing)) and before != ("waiting", waiting):
                        before = "waiting", waiting
                        yield json.dumps({"waiting": waiting}) + "\n"
                    told = [drawing.messages.popleft() for _ in range(len(drawing.messages))]
                    for k, message in enumerate(told):
                        if k + 1 == len(told) or "stage" not in message or "stage" not in told[k + 1]:
                            yield json.dumps(message) + "\n"
                    if done:
                        return
                    drawn = tuple(id(drawing.newest[k]) for k in sorted(drawing.newest))
                    if drawn and drawn != before:
                        before = drawn
                        yield json.dumps({"preview": await run_in_threadpool(preview)}) + "\n"
                    await asyncio.sleep(APART)
            finally:
                self.line.leave(drawing)

        return StreamingResponse(lines(), media_type="application/x-ndjson", headers={"cache-control": "no-store"})

    def coloring(self, request: Request) -> tuple[Session, Coloring, Adjustment]:
        """The colouring that a request is about, and how it is to be changed."""
        session = self.session(request)
        return session, session.coloring(request.path_params["number"]), adjustment_of(request.query_params)

    async def gray(self, request: Request) -> Response:
        """The photograph in gray."""
        return await self.picture(lambda: np.ascontiguousarray(self.session(request).view.whole))

    async def colored(self, request: Request) -> Response:
        """A colouring, as large as it is shown."""
        session, coloring, adjustment = self.coloring(request)
        return await self.picture(lambda: adjustment.render(session.view, coloring.image))

    async def chart(self, request: Request) -> Response:
        """A map of what the networks think of a colouring."""
        session, coloring, _ = self.coloring(request)
        return await self.picture(lambda: at.chart(self.pipeline, session, coloring, request.path_params["what"]))

    async def picture(self, make: Callable[[], np.ndarray]) -> Response:
        content = await run_in_threadpool(lambda: encoded(make()))
        return Response(content, media_type="image/jpeg", headers={"cache-control": "private, max-age=600"})

    def full(self, session: Session, coloring: Coloring, adjustment: Adjustment) -> tuple[str, bytes]:
        with self.rendering:
            return at.full(self.pipeline, session, coloring, adjustment)

    async def download(self, request: Request) -> Response:
        """A colouring at the photograph's own size."""
        name, content = await run_in_threadpool(self.full, *self.coloring(request))
        disposition = f"attachment; filename*=UTF-8''{quote(name)}"
        return Response(content, media_type="application/octet-stream", headers={"content-disposition": disposition})

    async def archive(self, request: Request) -> Response:
        """A ZIP of several: each `item` is KEY/NUMBER, with the adjustments that follow it as one query of its own."""
        items = request.query_params.getlist("item")[:ZIPPED]
        found = []
        for item in items:
            key, _, rest = item.partition("/")
            number, _, query = rest.partition("?")
            session = self.find(key)
            if not number.isdigit():
                raise UserError("A photograph of the archive is KEY/NUMBER.")
            pairs = dict(part.partition("=")[::2] for part in query.split("&") if part)
            found.append((session, session.coloring(int(number)), adjustment_of(pairs)))
        path = self.folder / f"{secrets.token_hex(16)}.zip"

        def write() -> None:
            names: set[str] = set()
            with zipfile.ZipFile(path, "w") as archive:
                for session, coloring, adjustment in found:
                    name, content = self.full(session, coloring, adjustment)
                    stem, count = Path(name), 1
                    while name in names:
                        count += 1
                        name = f"{stem.stem}-{count}{stem.suffix}"
                    names.add(name)
                    archive.writestr(name, content)

        try:
            await run_in_threadpool(write)
            content = await run_in_threadpool(path.read_bytes)
        finally:
            path.unlink(missing_ok=True)
        headers = {"content-disposition": "attachment; filename=coloured.zip"}
        return Response(content, media_type="application/zip", headers=headers)

    async def swatches(self, request: Request) -> Response:
        """Colours that are plausible at a pixel."""
        session = self.session(request)
        try:
            x, y = (int(request.query_params[name]) for name in "xy")
        except (KeyError, ValueError):
            raise UserError("A place is two whole numbers, x and y.") from None
        return JSONResponse(await run_in_threadpool(at.swatches, self.pipeline, session, x, y))


def adjustment_of(query: Any) -> Adjustment:
    """The adjustments that an address asks for.

    Raises:
        UserError: they make no sense.
    """
    try:
        saturation, warmth = float(query.get("saturation", 1)), float(query.get("warmth", 0))
    except ValueError:
        raise UserError("Saturation and warmth are numbers.") from None
    return Adjustment(saturation, warmth, query.get("restore") == "1", query.get("border") == "1")


async def on_user_error(request: Request, error: Exception) -> Response:
    """A sentence for the page."""
    full = "queue" in str(error) and request.url.path.endswith("/draw")
    return refused(error, 503 if full else 404 if "deleted" in str(error) or "any more" in str(error) else 400)


async def on_bad_json(request: Request, error: Exception) -> Response:
    """What is no JSON."""
    return refused(UserError("The request is not in JSON."))


def build(studio: Studio) -> Starlette:
    """The application."""
    asked = studio.options
    one = "/api/photos/{key}"
    coloring = one + "/{number:int}"
    routes = [
        Route("/", lambda request: FileResponse(str(STATIC / "index.html"))),
        Mount("/static", StaticFiles(directory=str(STATIC))),
        Mount("/demo", StaticFiles(directory=str(DEMO))),
        Route("/api/about", studio.about),
        Route("/api/photos", studio.upload, methods=["POST"]),
        Route("/api/archive", studio.archive),
        Route(one, studio.tell),
        Route(one, studio.remove, methods=["DELETE"]),
        Route(one + "/draw", studio.draw, methods=["POST"]),
        Route(one + "/gray.jpg", studio.gray),
        Route(one + "/swatches", studio.swatches),
        Route(coloring + "/shown.jpg", studio.colored),
        Route(coloring + "/{what}.map", studio.chart),
        Route(coloring + "/download", studio.download),
    ]
    guard = Middleware(Guard, host=asked.host, names=asked.name, most_bytes=asked.megabytes * 2**20)
    errors: dict[Any, Any] = {UserError: on_user_error, PhotoError: on_user_error, json.JSONDecodeError: on_bad_json}
    return Starlette(routes=routes, middleware=[guard], exception_handlers=errors)


def start(pipeline: Pipeline, folder: Path, options: argparse.Namespace) -> tuple[str, Studio]:
    """Serves the page in threads of its own; returns its address and what it knows.

    Args:
        pipeline: colours.
        folder: where uploads are.
        options: the command line's.

    Raises:
        UserError: it cannot listen there, the port is taken for instance.
    """
    studio = Studio(pipeline, folder, options)
    try:
        listening = socket.create_server((options.host, options.port))
    except (OSError, OverflowError) as error:
        reason = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise UserError(f"The page cannot listen at {options.host}:{options.port}: {reason}.") from error
    asked = uvicorn.Config(
        build(studio), log_level="critical", access_log=False, lifespan="off", timeout_graceful_shutdown=3
    )
    studio.server = uvicorn.Server(asked)
    studio.serving = threading.Thread(target=studio.server.run, kwargs={"sockets": [listening]}, daemon=True)
    studio.serving.start()
    threading.Thread(target=_forget_on_and_on, args=(studio,), daemon=True).start()
    return f"http://{options.host}:{options.port}", studio


def _forget_on_and_on(studio: Studio) -> None:
    while not ending.wait(60):
        with contextlib.suppress(OSError):
            studio.forget_unused(KEPT)


def wait(studio: Studio) -> None:
    """Blocks until a signal ends the program; then ends all work, and waits for it: native code is not torn away."""
    try:
        threading.Event().wait()
    finally:
        ending.set()
        studio.server.should_exit = True
        studio.serving.join(10)
