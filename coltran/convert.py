# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the original TensorFlow program become ours.

    python -m coltran.convert TF_DIR -o OUT
    python -m coltran.convert TF_DIR -o LOGDIR/checkpoint-450000 --optimizer

TF_DIR is a log directory of the original (its newest checkpoint) or a checkpoint in one, such as TF_DIR/model-7. OUT
becomes a checkpoint that every program here reads. Which network it is, and of what sizes, the tensors tell; options
that have no tensors of their own come from --config, else from TF_DIR/config.yaml, else from the published
configuration. Every tensor is used exactly once, or nothing is written and each one that does not fit is listed.
`python -m coltran.download` fetches and converts the published ones.
"""

from __future__ import annotations

import json

from coltran import cli
from coltran.console import LOG, Parser
from coltran.original.load import convert, find_config, load_tf_network, load_tf_training, read_tf_checkpoint
from coltran.original.variables import load_tf_variables

__all__ = ["convert", "find_config", "load_tf_network", "load_tf_training", "load_tf_variables", "read_tf_checkpoint"]


def main() -> int:
    """The program; returns its exit code."""
    parser = Parser("convert", __doc__)
    parser.add_argument("source", metavar="TF_DIR", help="log directory of the original, or a checkpoint")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="where the checkpoint goes")
    parser.add_argument("--config", metavar="FILE", help="configuration that it must fit (default: from the tensors)")
    parser.add_argument("--raw", action="store_true", help="the weights as trained, not their moving averages")
    parser.add_argument("--optimizer", action="store_true", help="keep what a training needs to go on")
    options = parser.parse_args()
    config = cli.load_config(cli.find_config(options.config)) if options.config else None
    source, target = options.source, options.output
    network, step = convert(source, target, config=config, ema=not options.raw, optimizer=options.optimizer)
    size = sum(p.numel() for p in network.parameters()) / 1e6
    name = network.config["name"]  # type: ignore[index]
    LOG.info("%s -> %s: %s, %.2f M parameters, %s training steps", source, target, name, size, step)
    if options.json:
        print(json.dumps({"converted": [{"source": source, "checkpoint": target, "model": name, "step": step}]}))
    return 0


if __name__ == "__main__":
    cli.run(main)
