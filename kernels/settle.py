# SPDX-License-Identifier: Apache-2.0
"""`settle_row`, the public operation: a row by fixed point, from a guess. `choose.py` says who computes it."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from coltran_kernels import reference
from coltran_kernels.choose import choose, require, require_choice, serves_natively
from coltran_kernels.cpu import decode, settle
from coltran_kernels.decode import PreparedDecoder, decode_row, packed_weights, weights_for_triton
from coltran_kernels.shapes import check_decode_row, check_draw
from coltran_kernels.types import DecoderWeights, RowLayer, RowTerms, Settled
from coltran_kernels.xla import settle as passes


def settle_row(
    weights: DecoderWeights,
    terms: RowTerms,
    uniforms: Tensor,
    guess: Tensor,
    *,
    window: int = 16,
    influence: Tensor | None = None,
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

    What was drawn for a pixel is a bad guess if the pass has changed labels to its left. With `influence` it is drawn
    again, from its logits less a share of what the old labels added to them, plus that of the new ones: no pass, but
    two more draws, which save a quarter of the passes.

    Args:
        guess: [B, W] labels that the row may have, such as those of the row above; int64.
        influence: [S, S], what a label to the left (first axis) adds to the logits of a pixel, on the whole and up to
            a constant, such as `left_influence`; or None. "xla" makes no use of it.
        window: pixels of an image that a pass computes at most; at least 1. "xla" computes the whole row in every pass.
        weights, terms, uniforms, given, mode, temperature, top_p, eps, return_probabilities, prepared: of `decode_row`.
        implementation: "reference", "cpu" (native, float32; no gradient passes), "triton" (as of `decode_row`), "xla"
            (recorded as one loop of the graph; no gradient passes) or None.

    Raises:
        ValueError, NotImplementedError: as of `decode_row`; also a guess that is no label, or a window below 1.
    """
    require(window >= 1, f"settle_row: window must be at least 1, got {window}")
    check_draw("settle_row", mode, temperature, top_p)
    check_decode_row(weights, terms, uniforms, given)
    require(guess.shape == uniforms.shape, f"settle_row: guess is {tuple(guess.shape)}, not {tuple(uniforms.shape)}")
    if guess.numel() and not guess.is_meta and guess.device.type == "cpu":
        labels = weights.embedding.shape[0]
        for found in (int(guess.min()), int(guess.max())):
            require(0 <= found < labels, f"settle_row: guess holds {found}, labels are 0 to {labels - 1}")
    if influence is not None:
        square = (weights.embedding.shape[0],) * 2
        require(influence.shape == square, f"settle_row: influence is {tuple(influence.shape)}, not {square}")
    options: dict[str, Any] = {
        "window": window, "influence": influence, "given": given, "mode": mode, "temperature": temperature,
        "top_p": top_p, "eps": eps, "return_probabilities": return_probabilities,
    }  # fmt: skip
    chosen = choose("settle_row", implementation, ("reference", "cpu", "triton", "xla"), uniforms)
    if chosen == "xla":
        from coltran_kernels.xla import device  # imports torch_xla, so only when wanted

        del options["window"], options["influence"]
        return passes.settle_row(weights, terms, uniforms, guess, loop=device.loop, **options)
    if chosen == "triton":
        from coltran_kernels.triton import settle_launch  # imports triton, so only when wanted

        taken = weights_for_triton(weights, prepared)
        why_not = settle_launch.unsupported(taken, terms)
        if why_not is None:
            return settle_launch.settle_row(taken, terms, uniforms, guess, **options)
        require_choice(
            "triton" if prepared is not None else implementation,
            f"settle_row: implementation 'triton' cannot serve: {why_not}",
        )
    if serves_natively("settle_row", implementation, decode.unsupported_row(weights, terms, uniforms)):
        return settle.settle_row(packed_weights(weights, prepared), terms, uniforms, guess, **options)
    return reference.settle_row(weights, terms, uniforms, guess, **options)


def left_influence(
    weights: DecoderWeights,
    terms: RowTerms,
    *,
    eps: float = 1e-3,
    implementation: str | None = None,
) -> Tensor:
    """How the label to its left moves the logits of a pixel, as the network itself says for two pixels of a mean row.

    The mean of `terms` over images and pixels conditions both pixels; each label in turn is imposed on the first, and
    the log-probabilities of the second are the result.

    Args:
        weights, terms, eps, implementation: of `decode_row`, of rows of at least two pixels; terms of any
            pixels.

    Returns:
        [S, S], natural, the first axis for the label to the left.
    """
    labels = weights.embedding.shape[0]

    def mean(t: Tensor | None) -> Tensor | None:
        """[B, W, X] -> [S, 2, X], or a norm's [B, X] -> [S, X]."""
        if t is None or t.dim() == 1:
            return t
        return t.mean(tuple(range(t.dim() - 1))).expand(labels, *[2] * (t.dim() - 2), -1).contiguous()

    pair = RowTerms(cast("Tensor", mean(terms.inputs)), tuple(RowLayer._make(map(mean, row)) for row in terms.layers))

    def near(bias: Tensor) -> Tensor:
        """[h, 2W] -> [h, 4], of the position table what serves distances of at most one pixel."""
        width = bias.shape[1] // 2
        return bias[:, width - 2 : width + 2].contiguous()

    layers = tuple(layer._replace(bias=near(layer.bias)) for layer in weights.layers)
    first = torch.arange(labels, device=terms.inputs.device)
    _, _, probabilities = decode_row(
        weights._replace(layers=layers), pair, pair.inputs.new_zeros(labels, 2), eps=eps,
        given=torch.stack((first, first), 1), return_probabilities=True, implementation=implementation,
    )  # fmt: skip
    assert probabilities is not None
    return probabilities[:, 1].clamp(min=torch.finfo(probabilities.dtype).tiny).log()
