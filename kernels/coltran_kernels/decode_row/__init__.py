# SPDX-License-Identifier: Apache-2.0
"""`decode_row`: one row of coarse colours, pixel by pixel (ColTran section 4.1)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from coltran_kernels.decode_row import cpu, reference, xla
from coltran_kernels.decode_row.row import passes_win
from coltran_kernels.decode_row.shapes import check_options, check_shapes, weights_in_order
from coltran_kernels.dispatch import anything, require, select
from coltran_kernels.linear import unsupported_precision
from coltran_kernels.types import DecodedRow, DecoderWeights, RowConditioning, SamplingOptions

__all__ = ["PreparedDecoder", "decode_row", "passes_win", "prepare_decoder"]


class PreparedDecoder(NamedTuple):
    """The inner decoder as one implementation reads it, and what it was made from."""

    weights: DecoderWeights
    versions: tuple[int, ...]
    packed: cpu.PackedWeights | DecoderWeights  # for the native kernel, or of bfloat16 matrices for Triton's


def _versions(weights: DecoderWeights) -> tuple[int, ...]:
    """torch's count of the changes made in place to each tensor; inference tensors have none."""
    return tuple(0 if t.is_inference() else t._version for t in weights_in_order(weights))


def prepare_decoder(
    weights: DecoderWeights, *, precision: str = "float32", implementation: str | None = None
) -> PreparedDecoder | None:
    """What `decode_row` would make of the weights in every call, made once for many rows.

    Args:
        weights: the inner decoder.
        precision: of the products: "float32", or "bfloat16" with sums and all else in float32 ("cpu" and "triton").
        implementation: as for `decode_row`.

    Returns:
        What to pass as `prepared` together with the same weights and implementation, or None where the implementation
        that serves takes the weights as they are.

    Raises:
        NotImplementedError: the named implementation cannot serve these weights, or not on this machine; or bfloat16
            cannot be had.
    """
    reasons = {
        "reference": anything, "cpu": lambda: cpu.unsupported_reason(weights), "triton": anything, "xla": anything,
    }  # fmt: skip
    chosen = select("prepare_decoder", implementation, weights.embedding, reasons)
    if precision != "float32":
        reason = unsupported_precision(precision, chosen, weights.embedding)
        if reason is not None:
            raise NotImplementedError(f"prepare_decoder: {reason}")
    if chosen == "cpu":
        return PreparedDecoder(weights, _versions(weights), cpu.pack(weights, precision))
    if chosen == "triton" and precision != "float32":
        return PreparedDecoder(weights, _versions(weights), in_bfloat16(weights))
    return None


def in_bfloat16(weights: DecoderWeights) -> DecoderWeights:
    """The same with its matrices rounded: what Triton's kernels multiply by them is then rounded too."""
    layers = tuple(
        layer._replace(**{name: getattr(layer, name).bfloat16() for name in ("qkv", "out", "ff1", "ff2")})
        for layer in weights.layers
    )
    return weights._replace(layers=layers, logits=weights.logits.bfloat16())


def _check_prepared(weights: DecoderWeights, prepared: PreparedDecoder, kind: type) -> None:
    tensors, were = weights_in_order(weights), weights_in_order(prepared.weights)
    same = len(tensors) == len(were) and all(a is b for a, b in zip(tensors, were, strict=True))
    require(same and _versions(weights) == prepared.versions, "decode_row: prepared for other weights than these")
    require(isinstance(prepared.packed, kind), "decode_row: prepared for another implementation than serves")


def decode_row(
    weights: DecoderWeights,
    conditioning: RowConditioning,
    uniforms: Tensor,
    options: SamplingOptions = SamplingOptions(),  # noqa: B008  # immutable
    *,
    prepared: PreparedDecoder | None = None,
    implementation: str | None = None,
) -> DecodedRow:
    """Draw one row of coarse colours with the inner decoder, pixel by pixel (ColTran section 4.1).

    Args:
        weights: the inner decoder.
        conditioning: what conditions this row.
        uniforms: [B, W] in [0, 1), the one random number of each pixel.
        options: how it is drawn.
        prepared: `prepare_decoder(weights)`, which spares packing the weights in every call and says in which precision
            they are multiplied; never needed.
        implementation: "reference", "cpu" (native, float32; no gradient passes), "triton" (a GPU; not float64; no
            gradient passes), "xla" (recorded as one loop of the graph; no gradient passes) or None.

    Raises:
        ValueError: an argument out of its range, shapes that do not fit, or weights that have changed since they were
            prepared.
        NotImplementedError: the named implementation cannot serve these tensors, or not on this machine.
    """
    check_options("decode_row", options)
    check_shapes(weights, conditioning, uniforms, options)
    packed = None if prepared is None else prepared.packed
    matrices = packed if isinstance(packed, DecoderWeights) else weights

    def triton_reason() -> str | None:
        from coltran_kernels.decode_row import triton  # imports triton, so only when wanted

        return triton.unsupported_reason(matrices, conditioning)

    tensors = (conditioning.inputs, uniforms, *(t for layer in conditioning.layers for t in layer))
    reasons = {
        "reference": anything, "cpu": lambda: cpu.unsupported_reason(weights, *tensors), "triton": triton_reason,
        "xla": anything,
    }  # fmt: skip
    chosen = select("decode_row", implementation, uniforms, reasons)
    if chosen == "reference" and isinstance(packed, DecoderWeights):
        chosen = select("decode_row", "triton", uniforms, reasons)  # bfloat16 is not left out in silence
    if prepared is not None and chosen in ("cpu", "triton"):
        _check_prepared(weights, prepared, cpu.PackedWeights if chosen == "cpu" else DecoderWeights)
    if chosen == "cpu":
        taken = packed if isinstance(packed, cpu.PackedWeights) else cpu.pack(weights)
        return cpu.decode_row(taken, conditioning, uniforms, options)
    if chosen == "triton":
        from coltran_kernels.decode_row import triton

        return triton.decode_row(matrices, conditioning, uniforms, options)
    if chosen == "xla":
        from coltran_kernels import xla_device  # imports torch_xla, so only when wanted

        return xla.decode_row(weights, conditioning, uniforms, options, scan=xla_device.scan)
    return reference.decode_row(weights, conditioning, uniforms, options)
