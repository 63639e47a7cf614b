# SPDX-License-Identifier: Apache-2.0
"""Variables of the original TensorFlow program in and out of our networks.

The original numbers its layers automatically (`dense_37`, `self_attention_nd_4`), and the numbers depend on what else
the program had built. So a name is first made canonical: each automatic number becomes the layer's rank among its
siblings of the same kind. `slots` says which part of which of our tensors every canonical name is, in what layout.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from coltran.networks.colorizer import Colorizer, InnerDecoder, OuterDecoder
from coltran.networks.layers import AxialAttention, AxialEncoder, ConditionalNorm, FeedForward, Norm, PositionEmbedding
from coltran.networks.upsamplers import ColorUpsampler, SpatialUpsampler

_AUTOMATIC = (
    "col_tran_core|gray_scale_encoder|factorized_attention|self_attention_nd|outer_decoder|inner_decoder|position_embed"
    "|conditional_layer_norm|layer_normalization|dense|color_upsampler|spatial_upsampler"
)
_NUMBERED = re.compile(rf"({_AUTOMATIC})(?:_(\d+))?")


class Slot(NamedTuple):
    """Where one original variable lives: rows of one of our tensors, and how the original lays them out."""

    original: str  # canonical original name
    name: str  # key of the network's state_dict
    rows: slice  # part of that tensor's first axis
    layout: str  # "same", "kernel", "output" or "scale_shift"
    shape: tuple[int, ...]  # as the original stores it

    def to_torch(self, array: Tensor) -> Tensor:
        """The original's layout to ours, [out, in] for every matrix."""
        if self.layout == "kernel":  # [in, ...] -> [out, in]
            return array.reshape(array.shape[0], -1).T
        if self.layout == "output":  # [h, C, out] -> [out, h C]
            return array.reshape(-1, array.shape[2]).T
        if self.layout == "scale_shift":  # [in, h, 2 C], scale first in each head -> [2 h C, in], all scales first
            fan_in, heads, both = array.shape
            return array.reshape(fan_in, heads, 2, both // 2).permute(2, 1, 3, 0).reshape(-1, fan_in)
        return array

    def from_torch(self, rows: Tensor) -> Tensor:
        """Our layout to the original's."""
        if self.layout in ("kernel", "output"):
            return rows.T.reshape(self.shape)
        if self.layout == "scale_shift":
            fan_in, heads, both = self.shape
            return rows.reshape(2, heads, both // 2, fan_in).permute(3, 1, 0, 2).reshape(self.shape)
        return rows.reshape(self.shape)


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """Each original variable name with its automatic numbers replaced by ranks among siblings of the same kind."""
    parts = {name: name.removesuffix(":0").split("/") for name in names}
    siblings: dict[tuple[tuple[str, ...], str], set[int]] = {}
    for path in parts.values():
        for depth, part in enumerate(path):
            if match := _NUMBERED.fullmatch(part):
                siblings.setdefault((tuple(path[:depth]), match[1]), set()).add(int(match[2] or 0))

    def rank(path: list[str], depth: int) -> str:
        match = _NUMBERED.fullmatch(path[depth])
        if match is None:
            return path[depth]
        numbers = sorted(siblings[tuple(path[:depth]), match[1]])
        return f"{match[1]}.{numbers.index(int(match[2] or 0))}"

    return {name: "/".join(rank(path, i) for i in range(len(path))) for name, path in parts.items()}


ALL = slice(None)


def _same(original: str, name: str, tensor: Tensor, shape: tuple[int, ...] | None = None) -> Slot:
    return Slot(original, name, ALL, "same", shape or tuple(tensor.shape))


def _dense(original: str, name: str, layer: nn.Linear) -> Iterator[Slot]:
    yield Slot(f"{original}/kernel", f"{name}.weight", ALL, "kernel", tuple(layer.weight.T.shape))
    if layer.bias is not None:
        yield _same(f"{original}/bias", f"{name}.bias", layer.bias)


def _position(original: str, name: str, layer: PositionEmbedding) -> Iterator[Slot]:
    height, hidden = layer.row.shape
    yield _same(f"{original}/position_embedding_0", f"{name}.row", layer.row, (height, 1, hidden))
    yield _same(f"{original}/position_embedding_1", f"{name}.column", layer.column)


def _affine(original: str, name: str, norm: Norm | ConditionalNorm) -> Iterator[Slot]:
    yield _same(f"{original}/gamma", f"{name}.weight", norm.weight)
    yield _same(f"{original}/beta", f"{name}.bias", norm.bias)


def _norms(scope: str, prefix: str, norms: Iterable[nn.Module]) -> Iterator[Slot]:
    for i, norm in enumerate(norms):
        name = f"{prefix}.norms.{i}"
        if isinstance(norm, Norm):
            yield from _affine(f"{scope}/layer_normalization.{i}", name, norm)
        elif isinstance(norm, ConditionalNorm):
            original = f"{scope}/conditional_layer_norm.{i}"
            yield from _dense(f"{original}/dense.0", f"{name}.projection", norm.projection)
            yield from _affine(f"{original}/normalize", name, norm)
            if norm.pixel_weight is not None:
                shape = (1, *norm.pixel_weight.shape)
                yield _same(f"{original}/spatial_average", f"{name}.pixel_weight", norm.pixel_weight, shape)


def _attention(original: str, name: str, layer: AxialAttention) -> Iterator[Slot]:
    hidden, heads = layer.out.out_features, layer.heads
    channels = hidden // heads
    for i, part in enumerate("qkv"):
        rows = slice(i * hidden, (i + 1) * hidden)
        yield Slot(f"{original}/{part}/kernel", f"{name}.qkv.weight", rows, "kernel", (hidden, heads, channels))
    yield Slot(f"{original}/output/kernel", f"{name}.out.weight", ALL, "output", (heads, channels, hidden))
    axis = 1 if layer.axis == "row" else 0
    yield _same(f"{original}/relative_attention_bias_{axis}", f"{name}.bias", layer.bias)
    if layer.condition is not None:
        layout, parts = ("scale_shift", 2) if layer.cond_scale else ("kernel", 1)
        for i, part in enumerate(layer.conditioned):
            rows = slice(i * parts * hidden, (i + 1) * parts * hidden)
            shape = (layer.condition.in_features, heads, parts * channels)
            yield Slot(f"{original}/cond_{part}/kernel", f"{name}.condition.weight", rows, layout, shape)


def _feed_forward(first: int, name: str, layer: FeedForward) -> Iterator[Slot]:
    """The two dense layers, which the original names outside any scope: `first` counts them across the network."""
    yield from _dense(f"dense.{first}", f"{name}.inner", layer.inner)
    yield from _dense(f"dense.{first + 1}", f"{name}.outer", layer.outer)


def _encoder(scope: str, name: str, encoder: AxialEncoder) -> Iterator[Slot]:
    yield from _position(f"{scope}/position_embed.0", f"{name}.position", encoder.position)
    yield from _norms(scope, name, encoder.norms)
    for i, (attention, feed_forward) in enumerate(zip(encoder.attention, encoder.feed_forward, strict=True)):
        yield from _attention(f"{scope}/self_attention_nd.{i}", f"{name}.attention.{i}", attention)
        yield from _feed_forward(2 * i, f"{name}.feed_forward.{i}", feed_forward)


def _decoder(
    scope: str,
    name: str,
    decoder: OuterDecoder | InnerDecoder,
    attentions: list[str],
    conditions: list[str],
    first: int,
) -> Iterator[Slot]:
    """`attentions` and `conditions` name the attention and the conditional MLP of each place in a layer."""
    yield from _position(f"{scope}/position_embed.0", f"{name}.position", decoder.position)
    yield from _norms(scope, name, decoder.norms)
    for i, (attention, feed_forward) in enumerate(zip(decoder.attention, decoder.feed_forward, strict=True)):
        layer, place = divmod(i, len(attentions))
        yield from _attention(f"{scope}/{attentions[place]}_{layer}", f"{name}.attention.{i}", attention)
        yield from _feed_forward(first + 2 * i, f"{name}.feed_forward.{i}", feed_forward)
        if feed_forward.condition is not None:
            kind = "affine" if feed_forward.parts == 2 else "shift"
            original = f"{scope}/{kind}_{conditions[place]}_{layer}"
            yield from _dense(original, f"{name}.feed_forward.{i}.condition", feed_forward.condition)


def _colorizer(network: Colorizer) -> Iterator[Slot]:
    root = "col_tran_core.0"
    gray, encoder = network.gray_encoder, network.gray_encoder.encoder
    scope = f"{root}/gray_scale_encoder.0"
    yield _same(f"{scope}/dense.0/kernel", "gray_encoder.embedding.weight", gray.embedding.weight)
    yield _same(f"{scope}/dense.0/bias", "gray_encoder.bias", gray.bias)
    yield from _encoder(f"{scope}/factorized_attention.0", "gray_encoder.encoder", encoder)
    if network.parallel_logits is not None:
        yield from _dense(f"{root}/parallel_logits", "parallel_logits", network.parallel_logits)
    yield _same(f"{root}/dense.0/kernel", "embedding.weight", network.embedding.weight)
    outer, inner = network.outer_decoder, network.inner_decoder
    first = 2 * len(encoder.feed_forward)
    names = ["unmask_row_att", "mask_col_att"]
    yield from _decoder(f"{root}/outer_decoder.0", "outer_decoder", outer, names, ["r", "c"], first)
    first += 2 * len(outer.feed_forward)
    yield from _decoder(f"{root}/inner_decoder.0", "inner_decoder", inner, ["mask_row_att"], ["c"], first)
    yield from _affine(f"{root}/layer_normalization.0", "norm", network.norm)
    yield from _dense(f"{root}/auto_logits", "logits", network.logits)


def _upsampler(network: ColorUpsampler | SpatialUpsampler) -> Iterator[Slot]:
    root = "color_upsampler.0" if isinstance(network, ColorUpsampler) else "spatial_upsampler.0"
    yield _same(f"{root}/dense.0/kernel", "channel_embedding.weight", network.channel_embedding.weight)
    yield _same(f"{root}/dense.1/kernel", "gray_embedding.weight", network.gray_embedding.weight)
    yield from _dense(f"{root}/dense.2", "input", network.input)
    yield from _encoder(f"{root}/factorized_attention.0", "encoder", network.encoder)
    yield from _dense(f"{root}/dense.3", "logits", network.logits)


def slots(network: nn.Module) -> list[Slot]:
    """Every original variable of a network, and where it lives in ours.

    Raises:
        TypeError: not one of the three networks.
    """
    if isinstance(network, Colorizer):
        return list(_colorizer(network))
    if isinstance(network, (ColorUpsampler, SpatialUpsampler)):
        return list(_upsampler(network))
    raise TypeError(f"expected one of the three networks, got {type(network).__name__}")


@torch.no_grad()
def load_tf_variables(model: nn.Module, variables: Mapping[str, np.ndarray]) -> None:
    """Copy the original's variables into `model`, every one of them exactly once.

    Args:
        model: one of the three networks.
        variables: {original name: array}; a trailing ":0" and the automatic numbers in the names do not matter.

    Raises:
        ValueError: lists each missing, unexpected and misshapen variable; the model is then unchanged.
    """
    canonical = canonical_names(variables)
    found = {canonical[name]: (name, array) for name, array in variables.items()}
    if len(found) < len(variables):
        raise ValueError("two variables have the same canonical name")
    expected = {slot.original: slot for slot in slots(model)}
    problems = [f"missing {name} {list(expected[name].shape)}" for name in expected if name not in found]
    problems += [f"unexpected {found[name][0]} {list(found[name][1].shape)}" for name in found if name not in expected]
    for name, slot in expected.items():
        if name in found and tuple(found[name][1].shape) != slot.shape:
            original, array = found[name]
            problems.append(f"misshapen {original}: {list(array.shape)}, expected {list(slot.shape)}")
    if problems:
        raise ValueError(f"{len(problems)} variables do not fit {type(model).__name__}:\n  " + "\n  ".join(problems))
    state = model.state_dict()  # shares memory with the model
    for name, slot in expected.items():
        rows = state[slot.name][slot.rows]
        ours = slot.to_torch(torch.from_numpy(np.ascontiguousarray(found[name][1])))
        rows.copy_(ours.reshape(rows.shape))


def to_tf_layout(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """{canonical original name: array} of tensors that are keyed and shaped like `model.state_dict()`.

    Works for weights, gradients and averages alike; slots whose tensor is absent are left out.
    """
    present = [slot for slot in slots(model) if slot.name in tensors]
    return {s.original: s.from_torch(tensors[s.name].detach()[s.rows]).cpu().numpy().copy() for s in present}
