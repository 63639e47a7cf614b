# SPDX-License-Identifier: Apache-2.0
"""The shapes and ranges of what `decode_row` takes, so that kernels may trust addresses."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from coltran_kernels.dispatch import require
from coltran_kernels.types import DecoderLayer, DecoderWeights, RowConditioning, RowLayer, SamplingOptions

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
            yield f"conditioning of layer {index}, {name}", tensor, ((hidden,), (batch, hidden))
        else:
            columns = 3 * hidden if name.startswith("qkv") else hidden
            yield f"conditioning of layer {index}, {name}", tensor, ((batch, width, columns),)


def _of_decode_row(
    weights: DecoderWeights, conditioning: RowConditioning, uniforms: Tensor, options: SamplingOptions
) -> Expected:
    batch, width, hidden = conditioning.inputs.shape
    labels = weights.embedding.shape[0]
    yield "uniforms", uniforms, ((batch, width),)
    yield "given", options.given, ((batch, width),)
    yield "guidance", options.guidance, ((batch, width, labels),)
    yield "embedding", weights.embedding, ((labels, hidden),)
    yield "norm_weight", weights.norm_weight, ((hidden,),)
    yield "norm_bias", weights.norm_bias, ((hidden,),)
    yield "logits", weights.logits, ((labels, hidden),)
    yield "logits_bias", weights.logits_bias, ((labels,),)
    for index, (layer, row) in enumerate(zip(weights.layers, conditioning.layers, strict=True)):
        yield from _of_layer(index, layer, hidden, width)
        yield from _of_row(index, row, batch, width, hidden)


def check_shapes(
    weights: DecoderWeights, conditioning: RowConditioning, uniforms: Tensor, options: SamplingOptions
) -> None:
    """Raises ValueError with the first tensor whose shape does not fit the others."""
    if len(weights.layers) != len(conditioning.layers):
        raise ValueError(
            f"decode_row: {len(weights.layers)} layers of weights, {len(conditioning.layers)} of conditioning"
        )
    if conditioning.inputs.dim() != 3:
        raise ValueError(f"decode_row: inputs is {tuple(conditioning.inputs.shape)}, expected [B, W, D]")
    for name, tensor, shapes in _of_decode_row(weights, conditioning, uniforms, options):
        if tensor is not None and tuple(tensor.shape) not in shapes:
            allowed = " or ".join(map(str, shapes))
            raise ValueError(f"decode_row: {name} is {tuple(tensor.shape)}, expected {allowed}")


SMALLEST, LARGEST = 1e-30, 1e30  # temperatures (the first also of top-p) by which float32 divides without overflow


def check_options(name: str, options: SamplingOptions) -> None:
    """Raises ValueError where operation `name` is told to draw in a way that there is not."""
    mode, temperature, top_p = options.mode, options.temperature, options.top_p
    require(mode in ("sample", "argmax"), f"{name}: mode must be 'sample' or 'argmax', got {mode!r}")
    in_range = SMALLEST <= temperature <= LARGEST
    require(in_range, f"{name}: temperature must be from {SMALLEST} to {LARGEST}, got {temperature}")
    require(SMALLEST <= top_p <= 1, f"{name}: top_p must be from {SMALLEST} to 1, got {top_p}")


def weights_in_order(weights: DecoderWeights) -> list[Tensor]:
    """All tensors of the inner decoder."""
    of_layers = [tensor for layer in weights.layers for tensor in layer]
    return [weights.embedding, *of_layers, weights.norm_weight, weights.norm_bias, weights.logits, weights.logits_bias]
