# SPDX-License-Identifier: Apache-2.0
"""`decode_row`, the public operation: a row pixel by pixel. `choose.py` says who computes it."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from torch import Tensor

from coltran_kernels import reference
from coltran_kernels.choose import choose, require, require_choice, serves_natively
from coltran_kernels.cpu import decode
from coltran_kernels.cpu import linear as dense
from coltran_kernels.shapes import check_decode_row, check_draw
from coltran_kernels.types import DecoderWeights, RowTerms
from coltran_kernels.xla import step


class PreparedDecoder(NamedTuple):
    """The inner decoder as one implementation reads it, and what it was made from."""

    weights: DecoderWeights
    versions: tuple[int, ...]
    packed: decode.PackedWeights | DecoderWeights  # for the native kernel, or of bfloat16 matrices for Triton's


def _versions(weights: DecoderWeights) -> tuple[int, ...]:
    """torch's count of the changes made in place to each tensor; inference tensors have none."""
    return tuple(0 if t.is_inference() else t._version for t in decode.weights_in_order(weights))


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
    chosen = choose("prepare_decoder", implementation, ("reference", "cpu", "triton", "xla"), weights.embedding)
    if chosen == "triton" and precision == "bfloat16":
        if (reason := dense.why_not(precision, weights.embedding.device)) is not None:
            raise NotImplementedError(f"prepare_decoder: {reason}")
        return PreparedDecoder(weights, _versions(weights), in_bfloat16(weights))
    natively = serves_natively("prepare_decoder", implementation, decode.unsupported(weights))
    reason = dense.why_not(precision) if natively else f"{precision} is served by 'cpu' and 'triton' alone"
    if precision != "float32" and reason is not None:
        raise NotImplementedError(f"prepare_decoder: {reason}")
    return PreparedDecoder(weights, _versions(weights), decode.pack(weights, precision)) if natively else None


def in_bfloat16(weights: DecoderWeights) -> DecoderWeights:
    """The same with its matrices rounded: what Triton's kernels multiply by them is then rounded too."""
    layers = tuple(
        layer._replace(**{name: getattr(layer, name).bfloat16() for name in ("qkv", "out", "ff1", "ff2")})
        for layer in weights.layers
    )
    return weights._replace(layers=layers, logits=weights.logits.bfloat16())


def _check_prepared(weights: DecoderWeights, prepared: PreparedDecoder, kind: type) -> None:
    tensors, were = decode.weights_in_order(weights), decode.weights_in_order(prepared.weights)
    same = len(tensors) == len(were) and all(a is b for a, b in zip(tensors, were, strict=True))
    require(same and _versions(weights) == prepared.versions, "decode_row: prepared for other weights than these")
    require(isinstance(prepared.packed, kind), "decode_row: prepared for another implementation than serves")


def packed_weights(weights: DecoderWeights, prepared: PreparedDecoder | None) -> decode.PackedWeights:
    """The weights as the native kernel reads them."""
    if prepared is None:
        return decode.pack(weights)
    _check_prepared(weights, prepared, decode.PackedWeights)
    return cast("decode.PackedWeights", prepared.packed)


def weights_for_triton(weights: DecoderWeights, prepared: PreparedDecoder | None) -> DecoderWeights:
    """The weights as Triton's kernels take them: those prepared, which are bfloat16, or as they are."""
    if prepared is None:
        return weights
    _check_prepared(weights, prepared, DecoderWeights)
    return cast("DecoderWeights", prepared.packed)


def decode_row(
    weights: DecoderWeights,
    terms: RowTerms,
    uniforms: Tensor,
    *,
    given: Tensor | None = None,
    mode: str = "sample",
    temperature: float = 1.0,
    top_p: float = 1.0,
    eps: float = 1e-3,
    return_probabilities: bool = False,
    prepared: PreparedDecoder | None = None,
    implementation: str | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Draw one row of coarse colours with the inner decoder, pixel by pixel (ColTran section 4.1).

    Args:
        weights: the inner decoder.
        terms: what conditions this row.
        uniforms: [B, W] in [0, 1), the one random number of each pixel.
        given: [B, W] labels to impose, -1 where the pixel is to be drawn; or None.
        mode: "sample" or "argmax".
        temperature: divides the logits before the draw; > 0.
        top_p: draw from the most probable labels that together hold this probability; in (0, 1].
        eps: of the layer norms.
        return_probabilities: also return the untempered distributions.
        prepared: `prepare_decoder(weights)`, which spares packing the weights in every call and says in which precision
            they are multiplied; never needed.
        implementation: "reference", "cpu" (native, float32; no gradient passes), "triton" (a GPU; not float64; no
            gradient passes), "xla" (recorded as one loop of the graph; no gradient passes) or None.

    Returns:
        labels [B, W] int64, their natural log-probability under the untempered model [B, W], and the probabilities
        [B, W, S] or None.

    Raises:
        ValueError: an argument out of its range, shapes that do not fit, or weights that have changed since they were
            prepared.
        NotImplementedError: the named implementation cannot serve these tensors, or not on this machine.
    """
    check_draw("decode_row", mode, temperature, top_p)
    check_decode_row(weights, terms, uniforms, given)
    options: dict[str, Any] = {
        "given": given, "mode": mode, "temperature": temperature, "top_p": top_p, "eps": eps,
        "return_probabilities": return_probabilities,
    }  # fmt: skip
    chosen = choose("decode_row", implementation, ("reference", "cpu", "triton", "xla"), uniforms)
    if chosen == "xla":
        from coltran_kernels.xla import device  # imports torch_xla, so only when wanted

        return step.decode_row(weights, terms, uniforms, scan=device.scan, **options)
    if chosen == "triton":
        from coltran_kernels.triton import decode_launch

        taken = weights_for_triton(weights, prepared)
        why_not = decode_launch.unsupported(taken, terms)
        if why_not is None:
            return decode_launch.decode_row(taken, terms, uniforms, **options)
        require_choice(
            "triton" if prepared is not None else implementation,
            f"decode_row: implementation 'triton' cannot serve: {why_not}",
        )
    if serves_natively("decode_row", implementation, decode.unsupported_row(weights, terms, uniforms)):
        return decode.decode_row(packed_weights(weights, prepared), terms, uniforms, **options)
    return reference.decode_row(weights, terms, uniforms, **options)
