# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the original TensorFlow program become ours.

    python -m coltran.convert TF_DIR -o OUT
    python -m coltran.convert TF_DIR -o LOGDIR/checkpoint-450000 --optimizer
    python -m coltran.convert --download -o OUT

TF_DIR is a log directory of the original (its newest checkpoint) or a checkpoint in one, such as TF_DIR/model-7. OUT
becomes a checkpoint that every program here reads. Which network it is, and of what sizes, the tensors tell; options
that have no tensors of their own come from --config, else from TF_DIR/config.yaml, else from the published
configuration. Every tensor is used exactly once, or nothing is written and each one that does not fit is listed.
"""

from __future__ import annotations

import json
from pathlib import Path

from coltran import cli
from coltran.console import LOG, Parser
from coltran.original.download import published
from coltran.original.load import convert, find_config, load_tf_network, load_tf_training, read_tf_checkpoint
from coltran.original.variables import load_tf_variables

__all__ = ["convert", "find_config", "load_tf_network", "load_tf_training", "load_tf_variables", "read_tf_checkpoint"]


def main() -> int:
    """The program; returns its exit code."""
    parser = Parser("convert", __doc__)
    parser.add_argument("source", nargs="?", metavar="TF_DIR", help="log directory of the original, or a checkpoint")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="where the checkpoint goes")
    parser.add_argument("--config", metavar="FILE", help="configuration that it must fit (default: from the tensors)")
    parser.add_argument("--raw", action="store_true", help="the weights as trained, not their moving averages")
    parser.add_argument("--optimizer", action="store_true", help="keep what a training needs to go on")
    parser.add_argument(
        "--download", action="store_true",
        help="fetch the published archive and convert its three networks into OUT/colorizer and so on",
    )  # fmt: skip
    options = parser.parse_args()
    if options.download == bool(options.source):
        parser.error("name one of TF_DIR and --download")
    config = cli.load_config(cli.find_config(options.config)) if options.config else None
    sources = {Path(options.output): Path(options.source or "")}
    if options.download:
        sources = published(Path(options.output))
    done = []
    for target, source in sources.items():
        network, step = convert(source, target, config=config, ema=not options.raw, optimizer=options.optimizer)
        size = sum(p.numel() for p in network.parameters()) / 1e6
        name = network.config["name"]  # type: ignore[index]
        LOG.info("%s -> %s: %s, %.2f M parameters, %s training steps", source, target, name, size, step)
        done.append({"source": str(source), "checkpoint": str(target), "model": name, "step": step})
    if options.json:
        print(json.dumps({"converted": done}))
    return 0


if __name__ == "__main__":
    cli.run(main)
