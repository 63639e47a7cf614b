# SPDX-License-Identifier: Apache-2.0
"""Someone who uses the page without a browser: uploads, and asks for what a click asks for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx


class Visitor:
    """One person.

    Args:
        address: of the page.
    """

    def __init__(self, address: str) -> None:
        self.http = httpx.Client(base_url=address, timeout=600, trust_env=False)
        self.key = ""  # of the photograph

    def upload(self, photo: Path) -> httpx.Response:
        """Sends a file."""
        with photo.open("rb") as file:
            return self.http.post("/api/photos", params={"name": photo.name}, content=file)

    def open(self, photo: Path) -> str:
        """Sends a file; "done", or why it is not taken."""
        answer = self.upload(photo)
        self.key = answer.json().get("key", "")
        return "done" if answer.status_code == 201 else answer.json()["error"]

    @contextmanager
    def drawing(self, **asked: Any) -> Iterator[Iterator[dict[str, Any]]]:
        """What is told of a drawing; leaving it ends that."""
        body = {"samples": 1, "seed": 0} | asked
        with self.http.stream("POST", f"/api/photos/{self.key}/draw", json=body) as answer:
            if answer.status_code == 200:
                yield map(json.loads, answer.iter_lines())
            else:
                yield iter([json.loads(answer.read())])

    def draw(self, **asked: Any) -> str:
        """Draws colourings; "done", or why there are none."""
        with self.drawing(**asked) as told:
            last = list(told)[-1]
        return last["error"] if "error" in last else last["end"]

    def use(self, photo: Path, *, draw: bool = True) -> str:
        """Sends a photograph and draws one colouring; says how that ended, or what before it did not."""
        opened = self.open(photo)
        return self.draw() if draw and opened == "done" else opened

    def fetch(self, rest: str) -> httpx.Response:
        """What there is of the photograph at `rest`."""
        return self.http.get(f"/api/photos/{self.key}{rest}")
