# SPDX-License-Identifier: Apache-2.0
"""The page's server: what it lets in, and what a browser may load from where."""

from __future__ import annotations

import argparse
import threading
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coltran.errors import UserError
from coltran.page import layout
from coltran.pipeline import Pipeline

# A browser loads nothing from elsewhere, whatever the page says, and shows the page in no one else's frame.
POLICY = (
    b"default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    b"style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
)


class _Headers:
    """Adds headers to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [
                    (b"content-security-policy", POLICY),
                    (b"referrer-policy", b"no-referrer"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        await self.app(scope, receive, answer)


def start(pipeline: Pipeline, folder: Path, options: argparse.Namespace) -> str:
    """Serves the page in threads of its own; returns its address.

    Raises:
        UserError: the port is taken.
    """
    page = layout.build(
        pipeline, folder, most_pixels=options.megapixels * 10**6, most_samples=options.samples, workers=options.workers
    )
    page.queue(max_size=options.queue, api_open=False, default_concurrency_limit=options.workers)
    launching: dict[str, Any] = {
        "theme": layout.THEME, "server_name": options.host, "server_port": options.port, "share": False, "quiet": True,
        "allowed_paths": [], "max_file_size": options.megabytes * 2**20, "prevent_thread_lock": True, "ssr_mode": False,
        "enable_monitoring": False, "footer_links": [], "run_history": False, "mcp_server": False, "pwa": False,
        "state_session_capacity": 1000, "app_kwargs": {"middleware": [Middleware(_Headers)]},
    }  # fmt: skip
    try:
        page.launch(**launching)
    except OSError as error:
        raise UserError(f"The page cannot listen at {options.host}:{options.port}: {error}.") from error
    return f"http://{options.host}:{options.port}"


def wait() -> None:
    """Waits for Ctrl-C."""
    threading.Event().wait()
