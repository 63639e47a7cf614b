# SPDX-License-Identifier: Apache-2.0
"""The original program's way of sampling, in plain torch: what the incremental sampler is compared with.

    for each row:
        for each pixel of the row:  the inner decoder over the whole row, of which one pixel's logits are used
        the outer decoder over the whole image, of which one row is used

Nothing is kept from one step to the next. It runs the same network objects with the same layers, so what a comparison
shows is the algorithm and the row decoding alone. Where the original does more than this algorithm needs, it is left
out, in the reference's favour: scales and shifts of the norms are computed once (the original computes them for every
pixel), and the outer decoder is not run after the last row.

Sizes: B images of H x W pixels, D hidden size, S = 512 labels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from coltran.image import labels_to_colors
from coltran.networks.colorizer import Colorizer, InnerDecoder
from coltran.networks.layers import EPS, shift_right
from coltran.sampling import Sample, uniforms
from coltran_kernels import SamplingOptions, add_layer_norm
from coltran_kernels.reference import draw

Affine = tuple[Tensor, Tensor]


def norm_affines(decoder: InnerDecoder, z: Tensor) -> list[Affine]:
    """Scale and shift of each norm, from the encoded gray image or from one row of it."""
    return [norm.affine(z) for norm in decoder.norms]


def inner_decoder_row(
    decoder: InnerDecoder, row: int, e: Tensor, upper: Tensor, z: Tensor, norms: list[Affine], by: str | None
) -> Tensor:
    """The inner decoder, `by` an implementation, over a row of embedded colours e, `upper` and gray z, [B, 1, W, D]."""
    x = shift_right(e) + decoder.position.row[row] + decoder.position.column
    if decoder.skip:
        x = x + z + upper
    context = torch.cat((z, upper), -1)
    for i, (attention, feed_forward) in enumerate(zip(decoder.attention, decoder.feed_forward, strict=True)):
        y = attention(x, context, implementation=by)
        x = add_layer_norm(y, x, *norms[2 * i], EPS, implementation=by)
        y = feed_forward(x, context, implementation=by)
        x = add_layer_norm(y, x, *norms[2 * i + 1], EPS, implementation=by)
    return x


@torch.no_grad()
def sample(
    colorizer: Colorizer,
    gray: Tensor,
    *,
    mode: str = "sample",
    norm: str = "exact",
    seed: int = 0,
    rows: int | None = None,
    given: Tensor | None = None,
    return_probabilities: bool = False,
    finished: Callable[[str], None] = lambda stage: None,
    implementation: str | None = None,
) -> Sample:
    """What `coltran.sampling.sample` draws, computed as the original program computes it.

    Args:
        colorizer: the network, in evaluation mode.
        gray: integers [B, H, W] in 0..255.
        mode, norm, seed, return_probabilities: as for `coltran.sampling.sample`.
        rows: stop after as many rows; the others of the result are black.
        given: labels [B, H, W] to impose, -1 where a pixel is to be drawn.
        finished: called with the name of each stage when its last operation is issued: "encoder" once, then for each
            row "inner decoder" and, but for the last, "outer decoder".
        implementation: passed to the layers' kernels; None gives them the best there is, as the sampler has.

    Returns:
        The sample; `probabilities` [B, rows, W, S] only when asked for.
    """
    batch, height, width = gray.shape
    rows = height if rows is None else rows
    z = colorizer.encode(gray, implementation=implementation)
    finished("encoder")
    numbers = uniforms(seed, range(batch), height, width).to(z.device)
    inner = colorizer.inner_decoder
    norms = norm_affines(inner, z)
    labels = torch.zeros(batch, height, width, dtype=torch.int64, device=z.device)
    log_prob = z.new_zeros(batch, height, width)
    e = z.new_zeros(batch, height, width, colorizer.embedding.weight.shape[1])
    upper = torch.zeros_like(e)
    probabilities = []
    for i in range(rows):
        row = slice(i, i + 1)
        if norm == "rowcontext":
            norms = norm_affines(inner, z[:, row])
        for j in range(width):
            x = inner_decoder_row(inner, i, e[:, row], upper[:, row], z[:, row], norms, implementation)
            pixel = colorizer.norm(x[:, 0, j], implementation=implementation)
            logits = colorizer.logits(pixel, implementation=implementation)
            label = draw(logits, numbers[:, i, j], SamplingOptions(mode))
            if given is not None:
                label = torch.where(given[:, i, j] >= 0, given[:, i, j], label)
            labels[:, i, j] = label
            log_prob[:, i, j] = logits.log_softmax(-1).gather(1, label[:, None])[:, 0]
            e[:, i, j] = F.embedding(label, colorizer.embedding.weight)
            if return_probabilities:
                probabilities.append(logits.softmax(-1))
        finished("inner decoder")
        if i + 1 < height:
            upper = colorizer.outer_decoder(e, z, implementation=implementation)
            finished("outer decoder")
    kept = torch.stack(probabilities, 1).unflatten(1, (rows, width)) if return_probabilities else None
    return Sample(labels_to_colors(labels), labels, log_prob, log_prob, kept)
