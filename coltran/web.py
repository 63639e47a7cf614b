# SPDX-License-Identifier: Apache-2.0
"""A web page that colours photographs.

    python -m coltran.web
    python -m coltran.web --port 8080 --checkpoint trained/

Opens http://127.0.0.1:7860, on this machine only unless --host names another address. Drop a photograph there: its
colourings appear row by row. Choose among them, click to give hints, draw a part again, look where the model was
unsure, fetch the result at full size. Nothing is loaded from elsewhere and nothing is kept: what was uploaded is
deleted an hour after it was last used, and all of it when the program ends.

Everyone who reaches the address may use it. One person is served at a time, --queue others wait, and more are told
that it is full. Needs pip install coltran[web].
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from coltran import cli
from coltran.console import LOG, Parser
from coltran.errors import UserError
from coltran.loading import from_pretrained


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; a usage error leaves the program with exit code 2."""
    parser = Parser("web", __doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 is all (127.0.0.1)")
    parser.add_argument("--port", type=cli.at_least(1), default=7860, help="(7860)")
    parser.add_argument(
        "--name", nargs="+", default=[], help="under which browsers reach the page, besides localhost and addresses"
    )
    parser.add_argument("--checkpoint", metavar="DIR", help="folder with the networks (the package's)")
    parser.add_argument("--megabytes", type=cli.at_least(1), default=50, help="of an upload, at most (50)")
    parser.add_argument("--megapixels", type=cli.at_least(1), default=50, help="of a photograph, at most (50)")
    parser.add_argument("--samples", type=cli.at_least(1), default=32, help="colourings or particles, at most (32)")
    parser.add_argument("--queue", type=cli.at_least(1), default=64, help="requests that may wait (64)")
    parser.add_argument("--workers", type=cli.at_least(1), default=1, help="persons that are served at once (1)")
    cli.add_machine_arguments(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    options = parse_arguments(argv)
    device = cli.use_machine(options)
    pipeline = from_pretrained(options.checkpoint).to(device)
    if "color" not in pipeline.stages:
        raise UserError("This page needs the colorizer and the colour upsampler.")
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):  # the second: its terminal is closed
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="coltran-web-") as folder:
        try:
            from coltran.page import serve
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] not in ("starlette", "uvicorn"):
                raise
            raise UserError("The page needs the packages starlette and uvicorn: pip install coltran[web].") from error
        address, studio = serve.start(pipeline, Path(folder), options)
        LOG.info("%s", f"Open {address} in a browser; Ctrl-C ends.")
        serve.wait(studio)
    return 0


if __name__ == "__main__":
    cli.run(main)
