# SPDX-License-Identifier: Apache-2.0
"""Converts TensorFlow checkpoints of the original: to a network, a training's state, or a checkpoint of ours."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from coltran import checkpoint, networks
from coltran.checkpoint import CheckpointError
from coltran.config import as_dict
from coltran.configs import color_upsampler, colorizer, spatial_upsampler
from coltran.original import bundle as bundles
from coltran.original import configuration
from coltran.original.variables import canonical_names, load_tf_variables

PUBLISHED = {"coltran_core": colorizer, "color_upsampler": color_upsampler, "spatial_upsampler": spatial_upsampler}


def read_tf_checkpoint(path: str | Path, ema: bool = True) -> dict[str, np.ndarray]:
    """{original name: array} of the variables of a network in a TensorFlow checkpoint.

    Args:
        path: a directory, of which the newest checkpoint is taken, or a checkpoint in one.
        ema: the moving averages, which the original evaluates and samples with; else the weights as trained.

    Raises:
        CheckpointError: there is none, it is damaged, or `ema` and it does not hold the averages.
    """
    return bundles.read_variables(bundles.open_bundle(path), ema)


def find_config(path: str | Path, variables: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The whole configuration of the network in a TensorFlow checkpoint, its `model` section from the tensors.

    Raises:
        CheckpointError: the variables are not those of one of the three networks, or one that tells a size is
            missing.
    """
    canonical = canonical_names(variables)
    shapes = {canonical[name]: tuple(array.shape) for name, array in variables.items()}
    prefix = bundles.latest(path)
    try:
        name = configuration.network_name(shapes)
        whole = as_dict(PUBLISHED[name].get_config())
        beside = prefix.parent / "config.yaml" if prefix else Path(path) / "config.yaml"
        if beside.exists():
            saved = checkpoint.load_yaml(beside)
            if isinstance(saved.get("model"), dict) and saved["model"].get("name") == name:
                whole = saved
        whole["model"] = configuration.model_section(shapes, whole["model"])
    except configuration.UnknownNetwork as error:
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
    bundle = bundles.open_bundle(path)
    variables = bundles.read_variables(bundle, ema)
    whole = find_config(path, variables) if config is None else as_dict(config)
    section = whole["model"] if config is None else networks.model_config(whole)
    try:
        with torch.random.fork_rng(devices=[]):
            network = networks.build(section)
        load_tf_variables(network, variables)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{bundle.prefix} does not fit: {error}") from error
    return network.eval(), whole | {"model": network.config}, bundles.read_step(bundle)


def load_tf_training(path: str | Path, network: nn.Module) -> dict[str, Tensor]:
    """What a training needs to go on from a TensorFlow checkpoint: `weights/NAME`, `optimizer/NAME/mean_square`.

    Args:
        network: the network of that checkpoint, whatever its weights.

    Raises:
        CheckpointError: it holds no slots of RMSprop, or they are not those of its network.
    """
    bundle = bundles.open_bundle(path)
    raw = bundles.read_variables(bundle, ema=False)
    slots_found = bundles.read_slots(bundle)
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
