# SPDX-License-Identifier: Apache-2.0
"""Fetches the networks that the original's authors published, and converts them.

    python -m coltran.download
    python -m coltran.colorize old.jpg -o coloured --checkpoint published

They are of the paper's size (71 million parameters), trained on ImageNet. They go into the user's cache, where
`--checkpoint published` finds them, or into the folder of -o. The archive is checked against the server's checksum,
each tensor against its own, and every tensor has to be used exactly once; it is removed when its networks are
converted. The same command again goes on with a download that stopped.
"""

from __future__ import annotations

import json
from pathlib import Path

from rich.progress import DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

from coltran import cli
from coltran.console import LOG, Parser
from coltran.original import download


def main() -> int:
    """The program; returns its exit code."""
    parser = Parser("download", __doc__)
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="in place of the cache")
    parser.add_argument("--url", default=download.URL, help="of the archive (%(default)s)")
    options = parser.parse_args()
    output = options.output or download.cached()
    if download.is_installed(output, options.url):
        LOG.info("The published networks are in %s.", output)
        return _end(output, options.json)
    with cli.progress_bar(DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task("fetching", total=None)

        def report(done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total)
            if done == total:
                progress.update(task, description="converting")

        found = download.install(output, options.url, report)
    LOG.info("Fetched %s.", options.url)
    for place, (network, step) in found.items():
        size = sum(p.numel() for p in network.parameters()) / 1e6
        LOG.info("%s: %.2f M parameters, %s training steps", place, size, step)
    LOG.info("Licence of these networks: %s.", download.LICENCE)
    return _end(output, options.json)


def _end(output: Path, json_wanted: bool) -> int:
    if json_wanted:
        print(json.dumps({"checkpoint": str(output)}))
    return 0


if __name__ == "__main__":
    cli.run(main)
