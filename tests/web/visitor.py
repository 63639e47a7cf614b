# SPDX-License-Identifier: Apache-2.0
"""Someone who uses the page without a browser: uploads, and asks for what a click asks for."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import httpx

# The page's first events: a photograph is opened, its colours are drawn; a click asks for others, and they are drawn.
OPEN, DRAW, ASK, DRAW_ASKED = range(4)


class Visitor:
    """One person with a session of their own.

    Args:
        address: of the page.
    """

    def __init__(self, address: str) -> None:
        self.session = uuid.uuid4().hex[:12]
        self.http = httpx.Client(base_url=f"{address}/gradio_api", timeout=300, trust_env=False)
        self.opened = False  # a photograph, of which nothing was drawn yet

    def upload(self, photo: Path) -> httpx.Response:
        """Sends a file."""
        with photo.open("rb") as file:
            return self.http.post("/upload", files={"files": (photo.name, file)})

    def ask(self, event: int, data: list[Any]) -> str:
        """Asks for an event and waits for its end: "done", or why not."""
        body = {"data": data, "fn_index": event, "session_hash": self.session, "event_data": None, "trigger_id": None}
        joined = self.http.post("/queue/join", json=body)
        if joined.status_code != 200:
            return joined.json()["detail"]
        with self.http.stream("GET", "/queue/data", params={"session_hash": self.session}) as answer:
            for line in answer.iter_lines():
                message = json.loads(line[5:]) if line.startswith("data:") else {}
                if message.get("msg") == "process_completed":
                    return "done" if message["success"] else str(message["output"].get("error"))
        return "the connection ended"

    def open(self, path: str) -> str:
        """Opens an uploaded photograph."""
        self.opened = True
        return self.ask(OPEN, [{"path": path, "meta": {"_type": "gradio.FileData"}}, None])

    def draw(self, samples: int = 1, seed: int | None = 0) -> str:
        """Draws colourings of it: those that its opening asks for, and after them those of clicks."""
        event = DRAW if self.opened else DRAW_ASKED
        if not self.opened and (asked := self.ask(ASK, [])) != "done":
            return asked
        self.opened = False
        return self.ask(event, [None, None, None, samples, 1, 1.0, 0.9, seed, False, "the photograph"])

    def use(self, photo: Path, *, draw: bool = True) -> str:
        """Uploads a photograph, opens it and draws one colouring; says how that ended, or what before it did not."""
        opened = self.open(self.upload(photo).json()[0])
        return self.draw() if draw and opened == "done" else opened
