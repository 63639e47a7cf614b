# SPDX-License-Identifier: Apache-2.0
"""Which network, and of what sizes, a set of the original's variables is: the `model` section of its configuration.

Names and shapes tell all but the options without tensors of their own: `skip`, the activations, `cond_ln_seq`
and the dropouts. Those come from a configuration that is known to be near, such as the published one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from coltran.config import as_dict

Shapes = Mapping[str, tuple[int, ...]]

ROOTS = {
    "col_tran_core.0": "coltran_core",
    "color_upsampler.0": "color_upsampler",
    "spatial_upsampler.0": "spatial_upsampler",
}


class UnknownNetwork(ValueError):
    """Variables that are none of the three networks; the message says what is missing."""


def network_name(shapes: Shapes) -> str:
    """`model.name` of the variables with these canonical names.

    Raises:
        UnknownNetwork: of none of the three networks, or of several.
    """
    found = {ROOTS[root] for name in shapes if (root := name.split("/")[0]) in ROOTS}
    if len(found) != 1:
        kinds = " and ".join(sorted(found)) if found else "none of the three networks"
        raise UnknownNetwork(f"the variables are those of {kinds}")
    return found.pop()


def model_section(shapes: Shapes, base: Mapping[str, Any]) -> dict[str, Any]:
    """The `model` section of the network that these variables are.

    Args:
        shapes: {canonical original name: shape}, see `coltran.original.variables.canonical_names`.
        base: a `model` section of the same network; gives the options that leave no trace in the shapes.

    Raises:
        UnknownNetwork: none of the three networks, or a variable that tells a size is missing.
    """
    name = network_name(shapes)
    section = as_dict(base)
    if name != "coltran_core":
        return section | {"name": name} | _encoder(shapes, f"{name}.0/factorized_attention.0")
    root = "col_tran_core.0"
    encoder = _encoder(shapes, f"{root}/gray_scale_encoder.0/factorized_attention.0")
    resolution = encoder.pop("resolution")
    hidden = _shape(shapes, f"{root}/dense.0/kernel", 2)[1]
    outer, inner = f"{root}/outer_decoder.0", f"{root}/inner_decoder.0"
    first = 2 * encoder["num_encoder_layers"]  # feed-forwards before the decoder's, each of two dense layers
    decoder = {
        "hidden_size": hidden,
        "resolution": resolution,
        "num_heads": _shape(shapes, f"{inner}/mask_row_att_0/q/kernel", 3)[1],
        "ff_size": _shape(shapes, f"dense.{2 * first}/kernel", 2)[1],
        "num_outer_layers": _count(shapes, rf"{re.escape(outer)}/unmask_row_att_(\d+)/"),
        "num_inner_layers": _count(shapes, rf"{re.escape(inner)}/mask_row_att_(\d+)/"),
    }
    kept = {key: value for key, value in section.get("decoder", {}).items() if not key.startswith("cond_")}
    hidden_options = ("cond_mlp_act", "cond_ln_act", "cond_ln_seq", "cond_ln_init", "cond_att_init", "cond_att_act")
    kept |= {key: section["decoder"][key] for key in hidden_options if key in section.get("decoder", {})}
    return section | {
        "name": name,
        "hidden_size": hidden,
        "resolution": resolution,
        "stage": "encoder_decoder" if f"{root}/parallel_logits/kernel" in shapes else "decoder",
        "encoder": section.get("encoder", {}) | encoder,
        "decoder": kept | decoder | _conditioning(shapes, outer, inner),
    }


def _encoder(shapes: Shapes, scope: str) -> dict[str, Any]:
    height, _, hidden = _shape(shapes, f"{scope}/position_embed.0/position_embedding_0", 3)
    width = _shape(shapes, f"{scope}/position_embed.0/position_embedding_1", 2)[0]
    return {
        "hidden_size": hidden,
        "ff_size": _shape(shapes, "dense.0/kernel", 2)[1],
        "num_heads": _shape(shapes, f"{scope}/self_attention_nd.0/q/kernel", 3)[1],
        "num_encoder_layers": _count(shapes, rf"{re.escape(scope)}/self_attention_nd\.(\d+)/") // 2,
        "resolution": [height, width],
    }


def _conditioning(shapes: Shapes, outer: str, inner: str) -> dict[str, Any]:
    """Which parts of the decoders are conditioned.

    A switch that the configuration leaves out is on in the outer decoder and off in the inner one.
    """
    options: dict[str, Any] = {"cond_ln": f"{inner}/conditional_layer_norm.0/dense.0/kernel" in shapes}
    learnable = f"{inner}/conditional_layer_norm.0/spatial_average" in shapes
    options["cond_ln_sp_ave"] = "learnable" if learnable else "mean"
    in_outer, in_inner = f"{outer}/unmask_row_att_0", f"{inner}/mask_row_att_0"
    for part in "qkv":
        there = [f"{scope}/cond_{part}/kernel" in shapes for scope in (in_outer, in_inner)]
        if there != [True, False]:
            options[f"cond_att_{part}"] = there[1]
    channels = _shape(shapes, f"{in_outer}/q/kernel", 3)[2]
    scaled = [
        any(shape[2] == 2 * channels for name, shape in shapes.items() if name.startswith(f"{scope}/cond_"))
        for scope in (in_outer, in_inner)
    ]
    if scaled != [True, False]:
        options["cond_att_scale"] = scaled[1]
    return options | _mlp(shapes, inner)


def _mlp(shapes: Shapes, inner: str) -> dict[str, str]:
    kinds = [kind for kind in ("affine", "shift") if f"{inner}/{kind}_c_0/kernel" in shapes]
    return {"cond_mlp": kinds[0] if kinds else ""}


def _shape(shapes: Shapes, name: str, axes: int) -> tuple[int, ...]:
    if name not in shapes:
        raise UnknownNetwork(f"{name} is missing, and the network's sizes are not known without it")
    if len(shapes[name]) != axes:
        raise UnknownNetwork(f"{name} is misshapen: {list(shapes[name])}, expected {axes} axes")
    return shapes[name]


def _count(shapes: Shapes, pattern: str) -> int:
    return len({match[1] for name in shapes if (match := re.match(pattern, name))})
