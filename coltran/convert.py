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

import argparse
import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from coltran import checkpoint, cli, networks, tf_checkpoint, tf_config
from coltran.checkpoint import CheckpointError
from coltran.configs import color_upsampler, colorizer, spatial_upsampler
from coltran.download import published
from coltran.layers import plain
from coltran.tf_variables import canonical_names, load_tf_variables

__all__ = ["convert", "find_config", "load_tf_network", "load_tf_training", "load_tf_variables", "read_tf_checkpoint"]

PUBLISHED = {"coltran_core": colorizer, "color_upsampler": color_upsampler, "spatial_upsampler": spatial_upsampler}


def read_tf_checkpoint(path: str | Path, ema: bool = True) -> dict[str, np.ndarray]:
    """{original name: array} of the variables of a network in a TensorFlow checkpoint.

    Args:
        path: a directory, of which the newest checkpoint is taken, or a checkpoint in one.
        ema: the moving averages, which the original evaluates and samples with; else the weights as trained.

    Raises:
        CheckpointError: there is none, it is damaged, or `ema` and it does not hold the averages.
    """
    return tf_checkpoint.read_variables(tf_checkpoint.open_bundle(path), ema)


def find_config(path: str | Path, variables: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The whole configuration of the network in a TensorFlow checkpoint, its `model` section from the tensors.

    Raises:
        CheckpointError: the variables are not those of one of the three networks, or one that tells a size is
            missing.
    """
    canonical = canonical_names(variables)
    shapes = {canonical[name]: tuple(array.shape) for name, array in variables.items()}
    prefix = tf_checkpoint.latest(path)
    try:
        name = tf_config.network_name(shapes)
        whole = plain(PUBLISHED[name].get_config())
        beside = prefix.parent / "config.yaml" if prefix else Path(path) / "config.yaml"
        if beside.exists():
            saved = checkpoint.load_yaml(beside)
            if isinstance(saved.get("model"), dict) and saved["model"].get("name") == name:
                whole = saved
        whole["model"] = tf_config.model_section(shapes, whole["model"])
    except tf_config.UnknownNetwork as error:
        raise CheckpointError(f"{path} cannot be converted: {error}.") from error
    height, width = whole["model"]["resolution"]
    if name == "spatial_upsampler" or not whole.get("downsample") or height != width:
        return whole | {"resolution": [height, width]}
    return whole | {"downsample_res": height}


def load_tf_network(
    path: str | Path, config: Mapping[str, Any] | None = None, ema: bool = True
) -> tuple[nn.Module, dict[str, Any], int | None]:
    """The network of a TensorFlow checkpoint, in evaluation mode, its whole configuration and its training step.

    Args:
        path: as for `read_tf_checkpoint`.
        config: a whole configuration that the checkpoint has to fit; found from the tensors where None.
        ema: as for `read_tf_checkpoint`.

    Raises:
        CheckpointError: as for `read_tf_checkpoint` and `find_config`; or each tensor that does not fit is listed.
    """
    bundle = tf_checkpoint.open_bundle(path)
    variables = tf_checkpoint.read_variables(bundle, ema)
    whole = find_config(path, variables) if config is None else plain(config)
    section = whole["model"] if config is None else networks.model_config(whole)
    try:
        with torch.random.fork_rng(devices=[]):
            network = networks.build(section)
        load_tf_variables(network, variables)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{bundle.prefix} does not fit: {error}") from error
    return network.eval(), whole | {"model": network.config}, tf_checkpoint.read_step(bundle)


def load_tf_training(path: str | Path, network: nn.Module) -> dict[str, Tensor]:
    """What a training needs to go on from a TensorFlow checkpoint: `weights/NAME`, `optimizer/NAME/mean_square`.

    Args:
        network: the network of that checkpoint, whatever its weights.

    Raises:
        CheckpointError: it holds no slots of RMSprop, or they are not those of its network.
    """
    bundle = tf_checkpoint.open_bundle(path)
    raw = tf_checkpoint.read_variables(bundle, ema=False)
    slots_found = tf_checkpoint.read_slots(bundle)
    kinds = [kind for kind in ("rms", "velocity") if kind in slots_found]  # of older and of newer versions of Keras
    if len(kinds) != 1 or len(slots_found) != 1:
        raise CheckpointError(
            f"{bundle.prefix} does not hold the state of RMSprop without momentum, so a training cannot go on from it."
        )
    untrained = {name: array for name, array in raw.items() if "/normalize/" in name}
    weights, squares = copy.deepcopy(network), copy.deepcopy(network)
    try:
        load_tf_variables(weights, raw)
        load_tf_variables(squares, slots_found[kinds[0]] | untrained)
    except ValueError as error:
        raise CheckpointError(f"{bundle.prefix} does not fit: {error}") from error
    tensors = {f"weights/{name}": tensor for name, tensor in weights.state_dict().items()}
    return tensors | {f"optimizer/{name}/mean_square": p.detach() for name, p in squares.named_parameters()}


def convert(
    source: str | Path,
    target: str | Path,
    *,
    config: Mapping[str, Any] | None = None,
    ema: bool = True,
    optimizer: bool = False,
    seed: int = 0,
) -> tuple[nn.Module, int | None]:
    """Writes a TensorFlow checkpoint as one of ours, whole or not at all.

    Args:
        source, config, ema: as for `load_tf_network`.
        target: the checkpoint directory; a checkpoint that is there gives way.
        optimizer: keep what a training needs to go on, with the weights as trained beside the averages.
        seed: of the training that is to go on.

    Returns:
        The network and its training step.

    Raises:
        CheckpointError: as for `load_tf_network`; `target` holds something else; no optimizer to keep.
    """
    network, whole, step = load_tf_network(source, config, ema)
    if optimizer and step is None:
        raise CheckpointError(f"{source} does not say how many steps it was trained for, so no training can go on.")
    tensors = load_tf_training(source, network) if optimizer else {}
    state = {"step": step, "seed": seed} if optimizer else {"step": step, "weights_only": True}
    checkpoint.save(network, target, config=whole, training=(tensors, state))
    return network, step


def main() -> int:
    """The program; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m coltran.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
    for target, source in sources.items():
        network, step = convert(source, target, config=config, ema=not options.raw, optimizer=options.optimizer)
        size = sum(p.numel() for p in network.parameters()) / 1e6
        name = network.config["name"]  # type: ignore[index]
        print(f"{source} -> {target}: {name}, {size:.2f} M parameters, {step} training steps")
    return 0


if __name__ == "__main__":
    cli.run(main)
