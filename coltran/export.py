# SPDX-License-Identifier: Apache-2.0
"""Writes trained networks as one folder to colour photographs with, in half precision.

    python -m coltran.export RUNS -o trained
    python -m coltran.colorize old.jpg -o coloured --checkpoint trained
    python -m coltran.export RUNS --push owner/name

RUNS holds the log directories (or checkpoints) `colorizer/`, `color_upsampler/`, `spatial_upsampler/` and `guide/`; all
but the first may be absent. Of each, the newest checkpoint's moving averages are taken. A folder that is there already
is replaced network by network.

--push uploads them, with or without a folder to keep, to a repository on the Hugging Face Hub, which is made, with its
model card, where it is missing. It takes the token of `hf auth login` or HF_TOKEN.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from coltran import checkpoint, cli, hub
from coltran.console import LOG, Parser
from coltran.loading import from_pretrained
from coltran.pipeline import NETWORKS

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def export(runs: Path, output: Path, dtype: torch.dtype) -> list[Path]:
    """Writes the networks in `runs` to `output`, after checking that they go together; returns what it wrote.

    Raises:
        CheckpointError: `runs` is no such folder, or a weight is too large for `dtype`.
        OSError: it cannot be written.
    """
    pipeline = from_pretrained(runs)
    written = []
    for name in NETWORKS:
        network = getattr(pipeline, name)
        if network is not None:
            config = checkpoint.load_config(runs / name)
            checkpoint.save(network, output / name, config=config, dtype=dtype)
            written.append(output / name)
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    parser = Parser("export", __doc__)
    parser.add_argument("runs", type=Path, metavar="RUNS", help="folder with the log directories of the networks")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder to write")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload them to this repository on the Hub")
    parser.add_argument("--private", action="store_true", help="a repository that --push makes is private")
    parser.add_argument("--dtype", choices=DTYPES, default="float16", help="of the weights on disk (float16)")
    options = parser.parse_args(argv)
    if not (options.output or options.push):
        parser.error("name a folder (-o) or a repository (--push)")
    with tempfile.TemporaryDirectory() as temporary:
        output = options.output or Path(temporary)
        written = export(options.runs, output, DTYPES[options.dtype])
        sizes = {path.name: sum(file.stat().st_size for file in path.iterdir()) for path in written}
        for name, size in sizes.items():
            LOG.info("%s  %.1f MB", options.output / name if options.output else name, size / 1e6)
        address = hub.push(written, options.push, private=options.private) if options.push else None
    if address is not None:
        LOG.info("%s", address)
    if options.json:
        folder = str(options.output) if options.output else None
        print(json.dumps({"bytes": sizes, "folder": folder, "repository": address}))
    return 0


if __name__ == "__main__":
    cli.run(main)
