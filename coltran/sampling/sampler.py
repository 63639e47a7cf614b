# SPDX-License-Identifier: Apache-2.0
"""Sampling: the colorizer row by row with a KV cache, the upsamplers in one pass.

The only randomness is one uniform number a pixel, from a generator that belongs to (seed, index of the image). So an
image's sample does not depend on the images beside it, on the device, or on the implementation, save where a uniform
number falls within rounding error of a boundary of the cumulative distribution.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from coltran.image import labels_to_colors, to_bits
from coltran.networks.colorizer import Colorizer
from coltran.networks.dense import with_precision
from coltran.networks.layers import EPS, choose
from coltran.networks.upsamplers import ColorUpsampler, SpatialUpsampler
from coltran.sampling.decoding import Rows, decoder_weights, mean_terms
from coltran.sampling.decoding_graphs import GraphRows
from coltran.sampling.encoding import encode_distinct, encode_gray, estimate_values
from coltran.sampling.estimates import ESTIMATES
from coltran.sampling.threads import Threads
from coltran.sampling.ways import RowDrawer
from coltran_kernels import left_influence, prepare_decoder

AfterRow = Callable[[Tensor, Tensor], "Tensor | None"]


@dataclass(frozen=True)
class Sample:
    """Coarse colourings of B gray images."""

    rgb: Tensor  # uint8 [B, H, W, 3], multiples of 32
    labels: Tensor  # int64 [B, H, W] in 0..511
    log_prob: Tensor  # [B, H, W], natural log of the drawn label under the untempered model
    probabilities: Tensor | None = None  # [B, H, W, 512] when asked for
    passes: Tensor | None = None  # int64 [B, H], steps that each row took: W, or fewer by fixed point
    computed: Tensor | None = None  # int64 [B, H], pixels that were computed for it: W, or more by fixed point


def named_seed(seed: int, name: str) -> int:
    """A photograph's own seed, 0 .. 2**64 - 1, of a run's seed and the last part of the photograph's path or address.

    So it depends neither on the photographs beside it, nor on their order, nor on the folder it lies in.
    """
    text = f"{seed}/{name.rsplit('/', 1)[-1]}"
    return int.from_bytes(hashlib.sha256(os.fsencode(text)).digest()[:8], "big")


def uniforms(seed: int | Sequence[int], indices: Sequence[int], height: int, width: int) -> Tensor:
    """One number in [0, 1) for each pixel: float32 [B, H, W].

    Image b gets the raster-order stream of a Philox generator keyed by (its seed, indices[b]), the upper 24 of each 64
    bits: the same on every platform.

    Args:
        seed: one for all images, or one for each.

    Raises:
        ValueError: a seed or index outside 0 .. 2**64 - 1.
    """
    seeds = seed if isinstance(seed, Sequence) else [seed] * len(indices)
    if not all(0 <= number < 2**64 for number in (*seeds, *indices)):
        raise ValueError(f"seed and image indices must lie in 0 .. 2**64 - 1, got seed {seed}, indices {indices}")
    keys = np.array([seeds, indices], np.uint64).T  # a list's numbers from 2**63 on would be rounded
    streams = [np.random.Philox(key=key).random_raw(height * width) >> np.uint64(40) for key in keys]
    numbers = np.stack(streams).astype(np.float32) * np.float32(2**-24)
    return torch.from_numpy(numbers.reshape(len(indices), height, width))


@torch.no_grad()
@with_precision
def sample(
    colorizer: Colorizer,
    gray: Tensor,
    *,
    mode: str = "sample",
    norm: str = "exact",
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int | Sequence[int] | None = None,
    image_index: Sequence[int] | None = None,
    given: Tensor | None = None,
    return_probabilities: bool = False,
    method: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    after_row: AfterRow | None = None,
    finished: Callable[[str], None] = lambda stage: None,
    precision: str = "float32",
    implementation: str | None = None,
) -> Sample:
    """Draw a coarse colour for every pixel of B gray images (ColTran section 4.1).

    Each position is computed once: the encoder once an image, the outer decoder once a row over the cached keys
    and values of its columns, the inner decoder once a pixel over those of its row.

    Args:
        colorizer: the network; its dropout is not applied.
        gray: integers [B, H, W] in 0..255.
        mode: "sample" draws, "argmax" takes the most probable colour of each pixel.
        norm: "exact" averages conditional norms over the whole image, as in training, so that sampling and teacher
            forcing are one distribution; "rowcontext" over the row alone, as the original program samples.
        temperature: divides the logits before the draw; > 0.
        top_p: draw from the most probable colours that together hold this probability; in (0, 1].
        seed: 0 .. 2**64 - 1, one for all images or one for each; None takes a fresh one from the system.
        image_index: which stream of the seed each image draws from; default 0 .. B - 1.
        given: labels [B, H, W] to impose, -1 where a pixel is to be drawn.
        return_probabilities: keep all untempered distributions, [B, H, W, 512] (8 MB an image of 64 x 64).
        method: how a row is drawn, the same labels either way: "sequential", pixel by pixel; "fixed_point", in passes
            of many pixels from the row above as a guess (`coltran_kernels.settle_row`); or None, what is faster here.
        progress: called with (rows done, rows) after each row.
        after_row: called after each row with the labels and the log-probabilities so far, [B, rows done, W] each. What
            it returns, where that is not None, says of each image which one's history it goes on from, with what is
            imposed on that: int64 [B], in which an image that is gone on from keeps its place. Images that exchange
            histories must have the same gray.
        finished: called with the name of each stage of the work when its last operation is issued: "encoder" once, then
            for each row "conditioning", "row decoding" and, but for the last, "outer decoder". For measuring.
        precision: "float32", or "bfloat16" for products of values rounded to it, on a CPU that has units for them or a
            GPU: the dense layers', the encoder's attention's and the row decoder's; all else, the sums too, is float32.
        implementation: passed to the kernels.

    Raises:
        ValueError: an argument out of its range, or an image of another size than the network's.
        NotImplementedError: histories are exchanged on a device that takes whole graphs; or bfloat16 cannot be had.
    """
    choose({"exact": True, "rowcontext": True}, norm, "norm")
    batch, height, width = gray.shape
    expected = colorizer.outer_decoder.position.size
    if (height, width) != expected:
        raise ValueError(f"this colorizer works at {expected[0]} x {expected[1]} pixels, got {height} x {width}")
    indices = range(batch) if image_index is None else [int(i) for i in image_index]
    if len(indices) != batch:
        raise ValueError(f"{len(indices)} image indices for {batch} images")
    in_graphs = colorizer.embedding.weight.device.type == "xla" and implementation in (None, "xla")
    z = (encode_gray if in_graphs else encode_distinct)(colorizer, gray, implementation=implementation)
    finished("encoder")
    numbers = uniforms(secrets.randbits(64) if seed is None else seed, indices, height, width).to(z.device)
    rows = (GraphRows if in_graphs else Rows)(colorizer, z, norm=norm, finished=finished, implementation=implementation)
    weights = decoder_weights(colorizer)
    prepared = None if in_graphs else prepare_decoder(weights, precision=precision, implementation=implementation)
    influence = None
    if method == "fixed_point" and width > 1 and not in_graphs:
        terms = mean_terms(colorizer.inner_decoder, z, implementation=implementation)
        influence = left_influence(weights, terms, eps=EPS, implementation=implementation)
    drawer = RowDrawer(
        weights, prepared, method=method, influence=influence, implementation=implementation, mode=mode,
        temperature=temperature, top_p=top_p, return_probabilities=return_probabilities, eps=EPS,
    )  # fmt: skip
    labels, log_prob, probabilities = list[Tensor](), list[Tensor](), list[Tensor]()
    passes, computed = list[Tensor](), list[Tensor]()
    with Threads(z.device) as threads:
        for row in range(height):  # nothing in this loop waits for the device
            with rows.graph("row decoding"):
                of_row = drawer.draw(
                    rows.terms,
                    rows.pick(numbers),
                    None if given is None else rows.pick(given),
                    labels[-1] if labels else None,
                )
            finished("row decoding")
            labels.append(of_row.labels)
            log_prob.append(of_row.log_probs)
            passes.append(of_row.passes)
            computed.append(of_row.computed)
            if of_row.probabilities is not None:
                probabilities.append(of_row.probabilities)
            if after_row is not None:
                origin = after_row(torch.stack(labels, 1), torch.stack(log_prob, 1))
                if origin is not None:
                    rows.go_on_from(origin)
                    given = None if given is None else given[origin]
                    histories = (labels, log_prob, probabilities)
                    labels, log_prob, probabilities = ([t[origin] for t in ts] for ts in histories)
            if row + 1 < height:
                rows.advance(labels[-1])
            if progress is not None:
                progress(row + 1, height)
            threads.look()
    with rows.graph("image"):
        whole = torch.stack(labels, 1)
        kept = torch.stack(probabilities, 1) if probabilities else None
        work = torch.stack(passes, 1), torch.stack(computed, 1)
        return Sample(labels_to_colors(whole), whole, torch.stack(log_prob, 1), kept, *work)


@with_precision
def upsample_color(
    network: ColorUpsampler,
    coarse: Tensor,
    gray: Tensor,
    *,
    estimate: str = "argmax",
    precision: str = "float32",
    implementation: str | None = None,
) -> Tensor:
    """Fine colours for coarse ones (ColTran section 4.3).

    Args:
        network: the network; its dropout is not applied.
        coarse: integers [B, 64, 64, 3] in 0..255, of which 3 bits are read.
        gray: integers [B, 64, 64] in 0..255.
        estimate: which value of each channel's distribution: "argmax", the most probable, as the original program does;
            "mean", "sharp" or "median", which leave out most values far off (`coltran.sampling.estimates`).
        precision, implementation: as for `sample`.

    Returns:
        uint8 [B, 64, 64, 3].

    Raises:
        ValueError: an unknown estimate, or images of another size than the network's.
    """
    chosen = choose(ESTIMATES, estimate, "estimate")
    return estimate_values(network, to_bits(coarse, 8, 3), gray, chosen, implementation=implementation)


@with_precision
def upsample_space(
    network: SpatialUpsampler,
    rgb: Tensor,
    gray: Tensor,
    *,
    estimate: str = "argmax",
    precision: str = "float32",
    implementation: str | None = None,
) -> Tensor:
    """A 64 x 64 image resized to [B, 256, 256, 3], and gray at 256 x 256 -> uint8 [B, 256, 256, 3].

    The rest is as in `upsample_color`.
    """
    chosen = choose(ESTIMATES, estimate, "estimate")
    return estimate_values(network, rgb, gray, chosen, implementation=implementation)
