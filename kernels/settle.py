# SPDX-License-Identifier: Apache-2.0
"""`settle_row`, the public operation: a row by fixed point, from a guess. Who computes it is chosen as in `ops`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from coltran_kernels import reference
from coltran_kernels.cpu import decode, settle
from coltran_kernels.ops import (
    PreparedDecoder,
    _choose,
    _packed,
    _require,
    _require_choice,
    _serves_natively,
    check_draw,
)
from coltran_kernels.shapes import check_decode_row
from coltran_kernels.types import DecoderWeights, RowTerms, Settled
from coltran_kernels.xla import settle as passes


def settle_row(
    weights: DecoderWeights,
    terms: RowTerms,
    uniforms: Tensor,
    guess: Tensor,
    *,
    window: int = 16,
    given: Tensor | None = None,
    mode: str = "sample",
    temperature: float = 1.0,
    top_p: float = 1.0,
    eps: float = 1e-3,
    return_probabilities: bool = False,
    prepared: PreparedDecoder | None = None,
    implementation: str | None = None,
) -> Settled:
    """Draw what `decode_row` draws, several pixels at once: a row is the fixed point of drawing it from a guess.

    The label of a pixel depends on the labels before it and on its own uniform number. So the next `window` pixels are
    drawn at once, as if the guess were right; up to the first that comes out differently, that one included, the
    result is then final, and what was drawn is the guess for the next pass. A good guess makes few passes of many
    pixels. The labels never depend on it, save where a uniform number lies within rounding of a boundary.

    Args:
        guess: [B, W] labels that the row may have, such as those of the row above; int64.
        window: pixels of an image that a pass computes at most; at least 1. "xla" computes the whole row in every pass.
        weights, terms, uniforms, given, mode, temperature, top_p, eps, return_probabilities, prepared: of `decode_row`.
        implementation: "reference", "cpu" (native, float32; no gradient passes), "triton" (as of `decode_row`), "xla"
            (recorded as one loop of the graph; no gradient passes) or None.

    Raises:
        ValueError, NotImplementedError: as of `decode_row`; also a guess that is no label, or a window below 1.
    """
    _require(window >= 1, f"settle_row: window must be at least 1, got {window}")
    check_draw("settle_row", mode, temperature, top_p)
    check_decode_row(weights, terms, uniforms, given)
    _require(guess.shape == uniforms.shape, f"settle_row: guess is {tuple(guess.shape)}, not {tuple(uniforms.shape)}")
    if guess.numel() and not guess.is_meta and guess.device.type == "cpu":
        labels = weights.embedding.shape[0]
        for found in (int(guess.min()), int(guess.max())):
            _require(0 <= found < labels, f"settle_row: guess holds {found}, labels are 0 to {labels - 1}")
    options: dict[str, Any] = {
        "window": window, "given": given, "mode": mode, "temperature": temperature, "top_p": top_p, "eps": eps,
        "return_probabilities": return_probabilities,
    }  # fmt: skip
    chosen = _choose("settle_row", implementation, ("reference", "cpu", "triton", "xla"), uniforms)
    if chosen == "xla":
        from coltran_kernels.xla import device  # imports torch_xla, so only when wanted

        del options["window"]
        return passes.settle_row(weights, terms, uniforms, guess, loop=device.loop, **options)
    if chosen == "triton":
        from coltran_kernels.triton import settle_launch  # imports triton, so only when wanted

        why_not = settle_launch.unsupported(weights, terms)
        if why_not is None:
            return settle_launch.settle_row(weights, terms, uniforms, guess, **options)
        _require_choice(implementation, f"settle_row: implementation 'triton' cannot serve: {why_not}")
    if _serves_natively("settle_row", implementation, decode.unsupported_row(weights, terms, uniforms)):
        return settle.settle_row(_packed(weights, prepared), terms, uniforms, guess, **options)
    return reference.settle_row(weights, terms, uniforms, guess, **options)
