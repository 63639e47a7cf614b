# SPDX-License-Identifier: Apache-2.0
"""The page's server, and how long it keeps files."""

from __future__ import annotations

import argparse
import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
from starlette.middleware import Middleware

from coltran.errors import UserError
from coltran.page import layout
from coltran.page.guard import Guard
from coltran.page.live import ending
from coltran.pipeline import Pipeline


def start(pipeline: Pipeline, folder: Path, options: argparse.Namespace) -> str:
    """Serves the page in threads of its own; returns its address.

    Args:
        pipeline: colours.
        folder: where uploads and results are, GRADIO_TEMP_DIR.
        options: the command line's.

    Raises:
        UserError: it cannot listen there, the port is taken for instance.
    """
    for name in ("NO_PROXY", "no_proxy"):  # gradio asks its own page whether it is there
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1,localhost", options.host)))
    most_bytes = options.megabytes * 2**20
    guard = Middleware(Guard, host=options.host, names=options.name, most_bytes=most_bytes)
    page = layout.build(
        pipeline, most_pixels=options.megapixels * 10**6, most_samples=options.samples, workers=options.workers
    )
    page.queue(max_size=options.queue, api_open=False, default_concurrency_limit=options.workers)
    launching: dict[str, Any] = {
        "theme": layout.THEME, "server_name": options.host, "server_port": options.port, "share": False, "quiet": True,
        "allowed_paths": [], "max_file_size": most_bytes, "prevent_thread_lock": True, "ssr_mode": False,
        "enable_monitoring": False, "footer_links": [], "run_history": False, "mcp_server": False, "pwa": False,
        "state_session_capacity": 1000, "app_kwargs": {"middleware": [guard]},
    }  # fmt: skip
    try:
        page.launch(**launching)
    except (OSError, OverflowError, httpx.HTTPError, httpx.InvalidURL) as error:
        reason = str(error).rstrip(".")
        raise UserError(f"The page cannot listen at {options.host}:{options.port}: {reason}.") from error
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
    """Waits until the program is ended by Ctrl-C or another signal, and ends all work then."""
    try:
        threading.Event().wait()
    finally:
        ending.set()
        gr.close_all(verbose=False)
