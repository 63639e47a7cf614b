# SPDX-License-Identifier: Apache-2.0
"""The page's server: what it lets in, and what a browser may load from where."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coltran.errors import UserError
from coltran.page import layout
from coltran.page.live import ending
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

    Args:
        pipeline: colours.
        folder: where uploads and results are, GRADIO_TEMP_DIR.
        options: the command line's.

    Raises:
        UserError: the port is taken.
    """
    page = layout.build(
        pipeline, most_pixels=options.megapixels * 10**6, most_samples=options.samples, workers=options.workers
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
    threading.Thread(target=_forget_on_and_on, args=(folder,), daemon=True).start()
    return f"http://{options.host}:{options.port}"


def forget(folder: Path, seconds: float) -> None:
    """Deletes the files in a folder that nobody has used for so long, and folders in it that are empty for so long."""
    for path in list(folder.rglob("*")):
        with contextlib.suppress(OSError):  # it is not empty, or gone
            if time.time() - path.stat().st_ctime >= seconds:
                (path.rmdir if path.is_dir() else path.unlink)()


def _forget_on_and_on(folder: Path) -> None:
    while not ending.wait(60):
        forget(folder, layout.KEPT)


def wait() -> None:
    """Waits for Ctrl-C, or for SIGTERM, which leaves the program with exit code 143; ends all work then."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        threading.Event().wait()
    finally:
        ending.set()
        gr.close_all(verbose=False)
