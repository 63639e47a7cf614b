# SPDX-License-Identifier: Apache-2.0
"""What the page's server lets in and what a browser may load, before the application sees any of it.

A browser runs the pages of others too, and any of them can send requests here. So the server answers to its own names
alone (a name that someone makes point to this machine is another one), to no page but its own, and to no more bytes
than a photograph may have.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# A browser loads nothing from elsewhere, whatever the page says, and shows the page in no one else's frame.
POLICY = b"default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
SMALL = 1 << 20  # bytes of a request that is no upload


def _name(netloc: str) -> str:
    return urlsplit(f"//{netloc}").hostname or ""


def _is_address(name: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    return False


class _TooMuch(Exception):
    """A request has more bytes than it may have."""


class Guard:
    """ASGI middleware: refuses requests that the page does not make, and adds security headers to every response.

    Args:
        host: what the server listens at.
        names: under which browsers reach the page besides that, localhost and numeric addresses, perhaps by way of a
            server in front that has another port.
        most_bytes: of an upload.
    """

    def __init__(self, app: ASGIApp, host: str, names: Collection[str], most_bytes: int) -> None:
        self.app, self.most_bytes = app, most_bytes
        self.given = {name.lower() for name in names}
        self.names = {"localhost", host.lower(), *self.given}

    def refusal(self, headers: Headers, most: int) -> tuple[int, str] | None:
        """Status and reason, if the request is refused for its headers; else None."""
        host, origin = headers.get("host", ""), headers.get("origin")
        try:
            _name(host)
            asker = None if origin is None else urlsplit(origin).netloc
            its_name = "" if asker is None else _name(asker)
        except ValueError:
            return 403, "This page answers to names and addresses alone."
        if not (_is_address(_name(host)) or _name(host) in self.names):
            return 403, f"This page does not answer to the name {_name(host)!r}; coltran.web --name gives it one more."
        # Under a name of its own a server in front may have another port; other ports of this machine are others.
        if asker is not None and asker != host and its_name not in self.given:
            return 403, f"This page takes no requests from {origin}."
        if int(headers.get("content-length", "0")) > most:
            return 413, f"This is more than {most} bytes."
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        most = self.most_bytes if scope["path"] == "/api/photos" else SMALL
        left, begun = most, False

        async def answer(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] += [
                    (b"content-security-policy", POLICY),
                    (b"referrer-policy", b"no-referrer"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise _TooMuch
            return message

        refused = self.refusal(Headers(scope=scope), most)
        try:
            if refused is None:
                await self.app(scope, counted, answer)
        except _TooMuch:
            if begun:
                raise
            refused = 413, f"This is more than {most} bytes."
        if refused is not None:
            await JSONResponse({"error": refused[1]}, refused[0])(scope, receive, answer)
