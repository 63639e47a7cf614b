# SPDX-License-Identifier: Apache-2.0
"""Writes the three trained networks as one folder to colour photographs with, in half precision.

    python -m coltran.export RUNS -o trained
    python -m coltran.colorize old.jpg -o coloured --checkpoint trained

RUNS holds the log directories (or checkpoints) `colorizer/`, `color_upsampler/` and `spatial_upsampler/`; the last two
may be absent. Of each, the newest checkpoint's moving averages are taken. A folder that is there already is replaced
network by network.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from coltran import checkpoint, cli
from coltran.pipeline import NETWORKS, from_pretrained

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
    parser = argparse.ArgumentParser(
        prog="python -m coltran.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=Path, metavar="RUNS", help="folder with the log directories of the networks")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--dtype", choices=DTYPES, default="float16", help="of the weights on disk (float16)")
    options = parser.parse_args(argv)
    for path in export(options.runs, options.output, DTYPES[options.dtype]):
        size = sum(file.stat().st_size for file in path.iterdir())
        print(f"{path}  {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    cli.run(main)
