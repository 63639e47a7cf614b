# SPDX-License-Identifier: Apache-2.0
"""How operands lie in packed tensors, and the shapes of those of `decode_row`, so that kernels may trust addresses."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from coltran_kernels.choose import require
from coltran_kernels.types import DecoderLayer, DecoderWeights, RowLayer, RowTerms

Expected = Iterator[tuple[str, Tensor | None, tuple[tuple[int, ...], ...]]]


def _of_layer(index: int, layer: DecoderLayer, hidden: int, width: int) -> Expected:
    ff, heads = layer.ff1.shape[0], layer.bias.shape[0]
    if heads == 0 or hidden % heads:
        raise ValueError(f"decode_row: layer {index} has {heads} heads, which do not divide the hidden size {hidden}")
    shapes = {
        "qkv": (3 * hidden, hidden), "bias": (heads, 2 * width), "out": (hidden, hidden), "ff1": (ff, hidden),
        "ff1_bias": (ff,), "ff2": (hidden, ff), "ff2_bias": (hidden,),
    }  # fmt: skip
    for name, tensor in layer._asdict().items():
        yield f"weights of layer {index}, {name}", tensor, (shapes[name],)


def _of_row(index: int, row: RowLayer, batch: int, width: int, hidden: int) -> Expected:
    for name, tensor in row._asdict().items():
        if name.startswith("norm"):
            yield f"terms of layer {index}, {name}", tensor, ((hidden,), (batch, hidden))
        else:
            columns = 3 * hidden if name.startswith("qkv") else hidden
            yield f"terms of layer {index}, {name}", tensor, ((batch, width, columns),)


def _of_decode_row(weights: DecoderWeights, terms: RowTerms, uniforms: Tensor, given: Tensor | None) -> Expected:
    batch, width, hidden = terms.inputs.shape
    labels = weights.embedding.shape[0]
    yield "uniforms", uniforms, ((batch, width),)
    yield "given", given, ((batch, width),)
    yield "embedding", weights.embedding, ((labels, hidden),)
    yield "norm_weight", weights.norm_weight, ((hidden,),)
    yield "norm_bias", weights.norm_bias, ((hidden,),)
    yield "logits", weights.logits, ((labels, hidden),)
    yield "logits_bias", weights.logits_bias, ((labels,),)
    for index, (layer, row) in enumerate(zip(weights.layers, terms.layers, strict=True)):
        yield from _of_layer(index, layer, hidden, width)
        yield from _of_row(index, row, batch, width, hidden)


def check_decode_row(weights: DecoderWeights, terms: RowTerms, uniforms: Tensor, given: Tensor | None) -> None:
    """Raises ValueError with the first tensor whose shape does not fit the others."""
    if len(weights.layers) != len(terms.layers):
        raise ValueError(f"decode_row: {len(weights.layers)} layers of weights, {len(terms.layers)} of terms")
    if terms.inputs.dim() != 3:
        raise ValueError(f"decode_row: inputs is {tuple(terms.inputs.shape)}, expected [B, W, D]")
    for name, tensor, shapes in _of_decode_row(weights, terms, uniforms, given):
        if tensor is not None and tuple(tensor.shape) not in shapes:
            allowed = " or ".join(map(str, shapes))
            raise ValueError(f"decode_row: {name} is {tuple(tensor.shape)}, expected {allowed}")


SMALLEST, LARGEST = 1e-30, 1e30  # temperatures (the first also of top-p) by which float32 divides without overflow


def check_draw(name: str, mode: str, temperature: float, top_p: float) -> None:
    """Raises ValueError where operation `name` is told to draw in a way that there is not."""
    require(mode in ("sample", "argmax"), f"{name}: mode must be 'sample' or 'argmax', got {mode!r}")
    in_range = SMALLEST <= temperature <= LARGEST
    require(in_range, f"{name}: temperature must be from {SMALLEST} to {LARGEST}, got {temperature}")
    require(SMALLEST <= top_p <= 1, f"{name}: top_p must be from {SMALLEST} to 1, got {top_p}")


def unpack(packed: Tensor, names: str, parts: tuple[str, ...], heads: int) -> dict[str, Tensor]:
    """[..., names * parts * h * C] -> each name's parts, views [..., h, C], by their names together: "q_scale"."""
    found = packed.unflatten(-1, (len(names) * len(parts), heads, -1)).unbind(-3)
    return dict(zip((f"{name}{part}" for name in names for part in parts), found, strict=True))


def unpack_conditioning(projected: Tensor, heads: int, conditioned: str, scaled: bool) -> dict[str, Tensor]:
    """Scales and shifts, or shifts alone, out of what `packed_attention` calls `projected`."""
    return unpack(projected, conditioned, ("_scale", "_shift") if scaled else ("_shift",), heads)


def operands_of(qkv: Tensor, projected: Tensor | None, heads: int, conditioned: str, scaled: bool) -> dict[str, Tensor]:
    """The operands of `axial_attention`, views of those of `packed_attention`."""
    found = unpack(qkv, "qkv", ("",), heads)
    return found if projected is None else found | unpack_conditioning(projected, heads, conditioned, scaled)
