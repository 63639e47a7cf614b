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
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coltran.image import labels_to_colors, to_bits
from coltran.networks.colorizer import Colorizer
from coltran.networks.dense import made_once, with_precision
from coltran.networks.layers import EPS, choose
from coltran.networks.upsamplers import ColorUpsampler, SpatialUpsampler
from coltran.sampling.cuda_graphs import AfterRow, draw_images
from coltran.sampling.decoding import Rows, decoder_weights
from coltran.sampling.encoding import check_images, encode_distinct, encode_gray, estimate_values
from coltran.sampling.estimates import ESTIMATES
from coltran.sampling.threads import Threads
from coltran.sampling.upsampler_graphs import upsample_images
from coltran.sampling.xla_rows import GraphRows
from coltran_kernels import SamplingOptions, decode_row, prepare_decoder
from coltran_kernels.decode_row.shapes import check_options, weights_in_order
from coltran_kernels.dispatch import anything, select


@dataclass(frozen=True)
class Sample:
    """Coarse colourings of B gray images."""

    rgb: Tensor  # uint8 [B, H, W, 3], multiples of 32
    labels: Tensor  # int64 [B, H, W] in 0..511
    log_prob: Tensor  # [B, H, W], natural log of the drawn label under the untempered, unguided model
    guided_log_prob: Tensor  # the same under the guided model, without guidance the same tensor
    probabilities: Tensor | None = None  # [B, H, W, 512] of the unguided model, when asked for


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
    guidance: Tensor | None = None,
    return_probabilities: bool = False,
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
        guidance: float32 [B, H, W, 512], added to the logits of each pixel before temperature and top-p, such as
            `w * clamp(log p(label | photograph) - log q(label | gray), -6, 6)`; None draws from the model itself.
        return_probabilities: keep all untempered, unguided distributions, [B, H, W, 512] (8 MB an image of 64 x 64).
        progress: called with (rows done, rows) after each row.
        after_row: called after each row with the labels and their guided log-probabilities so far, [B, rows done, W]
            each. What it returns, where that is not None, says of each image which one's history it goes on from, with
            what is imposed on that: int64 [B], in which an image that is gone on from keeps its place. Images that
            exchange histories must have the same gray and the same guidance.
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
    options = SamplingOptions(mode, temperature, top_p, given, guidance, return_probabilities, EPS)
    check_options("sample", options)
    if guidance is not None and guidance.shape != (*gray.shape, colorizer.embedding.num_embeddings):
        expected_shape = [*gray.shape, colorizer.embedding.num_embeddings]
        raise ValueError(f"guidance is {list(guidance.shape)}, expected {expected_shape}")
    device = colorizer.embedding.weight.device
    numbers = uniforms(secrets.randbits(64) if seed is None else seed, indices, height, width).to(device)
    watching: dict[str, Any] = {"after_row": after_row, "progress": progress, "finished": finished}
    attention = [*colorizer.outer_decoder.attention, *colorizer.inner_decoder.attention]
    channels = max((colorizer.embedding.embedding_dim // module.heads for module in attention), default=1)
    drawn_by = _select("sample", implementation, colorizer.embedding.weight, channels)
    if drawn_by == "triton":
        labels, log_prob, guided, probabilities = draw_images(
            colorizer, gray, numbers, options, norm=norm, precision=precision, implementation=drawn_by, **watching
        )
    else:
        labels, log_prob, guided, probabilities = _row_after_row(
            colorizer, gray, numbers, options, norm=norm, precision=precision, implementation=implementation,
            in_graphs=drawn_by == "xla", **watching,
        )  # fmt: skip
    return Sample(labels_to_colors(labels), labels, log_prob, guided, probabilities)


def _select(operation: str, implementation: str | None, weight: Tensor, channels: int) -> str:
    """Who computes with heads of so many channels: "triton" and "xla" in graphs, any other in eager mode.

    Raises:
        NotImplementedError: the named implementation cannot serve this network, or not on this machine.
    """

    def triton_reason() -> str | None:
        from coltran_kernels.attention import triton as attention  # imports triton, so only when wanted
        from coltran_kernels.linear import triton

        return triton.unsupported_reason(weight, weight) or attention.unsupported_reason(weight.new_empty(channels))

    reasons = {"reference": anything, "cpu": anything, "triton": triton_reason, "xla": anything}
    return select(operation, implementation, weight, reasons)


def _row_after_row(
    colorizer: Colorizer,
    gray: Tensor,
    numbers: Tensor,
    options: SamplingOptions,
    *,
    norm: str,
    precision: str,
    implementation: str | None,
    in_graphs: bool,
    after_row: AfterRow | None,
    progress: Callable[[int, int], None] | None,
    finished: Callable[[str], None],
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Labels, log-probabilities, those with guidance and the probabilities, the rows drawn by `decode_row` in turn."""
    z = (encode_gray if in_graphs else encode_distinct)(colorizer, gray, implementation=implementation)
    finished("encoder")
    rows = (GraphRows if in_graphs else Rows)(colorizer, z, norm=norm, finished=finished, implementation=implementation)
    weights, height, given = decoder_weights(colorizer), gray.shape[1], options.given
    prepare = partial(prepare_decoder, weights, precision=precision, implementation=implementation)
    tensors = weights_in_order(weights)
    prepared = None if in_graphs else made_once(colorizer, ("decoder", precision, implementation), tensors, prepare)
    labels, log_prob, guided, probabilities = list[Tensor](), list[Tensor](), list[Tensor](), list[Tensor]()
    with Threads(z.device) as threads:
        for row in range(height):
            with rows.graph("row decoding"):
                of_row = options._replace(
                    given=None if given is None else rows.pick(given),
                    guidance=None if options.guidance is None else rows.pick(options.guidance),
                )
                found = decode_row(
                    weights, rows.conditioning, rows.pick(numbers), of_row, prepared=prepared,
                    implementation=implementation,
                )  # fmt: skip
            finished("row decoding")
            labels.append(found.labels)
            log_prob.append(found.log_prob)
            guided.append(found.guided_log_prob)
            if found.probabilities is not None:
                probabilities.append(found.probabilities)
            if after_row is not None:
                origin = after_row(torch.stack(labels, 1), torch.stack(guided, 1))
                if origin is not None:
                    rows.reorder_cache(origin)
                    given = None if given is None else given[origin]
                    histories = (labels, log_prob, guided, probabilities)
                    labels, log_prob, guided, probabilities = ([t[origin] for t in ts] for ts in histories)
            if row + 1 < height:
                rows.advance(labels[-1])
            if progress is not None:
                progress(row + 1, height)
            threads.look()
    with rows.graph("image"):
        plain = torch.stack(log_prob, 1)
        of_guided = plain if options.guidance is None else torch.stack(guided, 1)
        return torch.stack(labels, 1), plain, of_guided, torch.stack(probabilities, 1) if probabilities else None


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
    return _upsample(network, to_bits(coarse, 8, 3), gray, estimate, precision, implementation)


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
    return _upsample(network, rgb, gray, estimate, precision, implementation)


def _upsample(
    network: ColorUpsampler | SpatialUpsampler,
    channels: Tensor,
    gray: Tensor,
    estimate: str,
    precision: str,
    implementation: str | None,
) -> Tensor:
    """Values of channels [B, H, W, c], on a GPU by a CUDA graph."""
    chosen = choose(ESTIMATES, estimate, "estimate")
    check_images(network, channels, gray)
    attention, weight = network.encoder.attention, network.logits.weight
    heads = max((weight.shape[1] // module.heads for module in attention), default=1)
    if _select("upsample", implementation, weight, heads) == "triton":
        return upsample_images(network, channels, gray, chosen, precision=precision, implementation="triton")
    return estimate_values(network, channels, gray, chosen, implementation=implementation)
