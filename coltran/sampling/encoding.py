# SPDX-License-Identifier: Apache-2.0
"""The axial encoders for inference: a block of lines at a time, in place.

The rows of an image do not meet in a layer of row attention, nor do its columns in one of column attention. So each
layer can take a few lines through attention, feed-forward and both norms while they are in the processor's cache, and
put them back where they were: the memory beyond the result is that of one block. Anywhere but on a CPU all lines are
one block, and what a layer gives is the next one's input, of whatever type it is.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from coltran.networks.colorizer import Colorizer
from coltran.networks.layers import AxialEncoder
from coltran.networks.upsamplers import ColorUpsampler, SpatialUpsampler
from coltran.sampling.estimates import Estimate
from coltran.sampling.threads import Threads

PIXELS = 1024  # in a block, or one line if that is more


def _blocks(x: Tensor, axis: str) -> Iterator[Tensor]:
    """Views of x [B, H, W, D] of whole lines along `axis`, PIXELS in each."""
    if axis == "row":
        rows = x.view(1, -1, *x.shape[2:])
        yield from rows.split(max(1, PIXELS // x.shape[2]), 1)
    else:
        for image in x.split(1):
            yield from image.split(max(1, PIXELS // x.shape[1]), 2)


@torch.no_grad()
def encode_in_place(encoder: AxialEncoder, x: Tensor, *, implementation: str | None = None) -> Tensor:
    """What `encoder(x)` is without dropout, on a CPU written over x, contiguous [B, H, W, D]."""

    def layer(i: int, x: Tensor) -> Tensor:
        y = encoder.attention[i](x, implementation=implementation)
        y = encoder.norms[2 * i](y, x, implementation=implementation)
        transformed = encoder.feed_forward[i](y, implementation=implementation)
        return encoder.norms[2 * i + 1](transformed, y, implementation=implementation)

    x += encoder.position.row[:, None]
    x += encoder.position.column
    with Threads(x.device) as threads:
        for i, attention in enumerate(encoder.attention):
            if x.device.type != "cpu":
                x = layer(i, x)
                continue
            for block in _blocks(x, attention.axis):
                block.copy_(layer(i, block))
                threads.look()
    return x


@torch.no_grad()
def encode_gray(colorizer: Colorizer, gray: Tensor, *, implementation: str | None = None) -> Tensor:
    """What `colorizer.encode(gray)` is without dropout: integers [B, H, W] in 0..255 -> [B, H, W, D]."""
    network = colorizer.gray_encoder
    x = F.embedding(gray.long(), network.embedding.weight + network.bias)
    return encode_in_place(network.encoder, x, implementation=implementation)


def encode_distinct(colorizer: Colorizer, gray: Tensor, *, implementation: str | None = None) -> Tensor:
    """As `encode_gray`, with images that occur several times encoded once: the samples of one photograph do."""
    distinct, which = gray.unique(dim=0, return_inverse=True)
    if len(distinct) == len(gray):
        return encode_gray(colorizer, gray, implementation=implementation)
    return encode_gray(colorizer, distinct, implementation=implementation)[which]


def check_images(network: ColorUpsampler | SpatialUpsampler, channels: Tensor, gray: Tensor) -> None:
    """Raises ValueError unless channels [B, H, W, c] and gray [B, H, W] are of the network's size, the same ones."""
    height, width = network.encoder.position.size
    if channels.dim() != 4 or channels.shape[:3] != gray.shape or gray.shape[1:] != (height, width):
        found = f"{list(gray.shape)} and {list(channels.shape)}"
        raise ValueError(f"this upsampler takes gray [B, {height}, {width}] and [B, {height}, {width}, 3], got {found}")


@torch.no_grad()
def estimate_values(
    network: ColorUpsampler | SpatialUpsampler,
    channels: Tensor,
    gray: Tensor,
    estimate: Estimate,
    *,
    implementation: str | None = None,
) -> Tensor:
    """An estimate of every channel's value, without dropout: [B, H, W, c] and gray [B, H, W] -> uint8 [B, H, W, c].

    One channel of one image at a time; the grayscale half of the input is made once for all channels, and the logits
    exist for one block at a time.

    Raises:
        ValueError: images of another size than the network's, or not the same ones.
    """
    check_images(network, channels, gray)
    if channels.device.type == "xla" and implementation in (None, "xla"):
        return _in_graphs(network, channels, gray, estimate, implementation)
    height, width = network.encoder.position.size
    of_channel, of_gray = network.tables()
    values = torch.empty(channels.shape, dtype=torch.uint8, device=channels.device)
    for b in range(channels.shape[0]):
        shared = F.embedding(gray[b : b + 1].long(), of_gray)
        for c in range(channels.shape[3]):
            x = F.embedding(channels[b : b + 1, ..., c].long() + network.levels * c, of_channel)
            x = encode_in_place(network.encoder, x.add_(shared), implementation=implementation)
            blocks = x.flatten(0, 2).split(PIXELS if x.device.type == "cpu" else height * width)
            logits = (network.logits(block, out_dtype=torch.float32, implementation=implementation) for block in blocks)
            values[b, ..., c] = torch.cat([estimate(found) for found in logits]).view(values.shape[1:3])
    return values


def _in_graphs(
    network: ColorUpsampler | SpatialUpsampler,
    channels: Tensor,
    gray: Tensor,
    estimate: Estimate,
    implementation: str | None,
) -> Tensor:
    """`estimate_values` where a compiler takes whole graphs: one graph for all channels of all images."""
    from coltran_kernels.xla_device import one_graph  # imports torch_xla, so only when wanted

    batch, height, width, count = channels.shape
    with one_graph("tables"):
        of_channel, of_gray = network.tables()
        number = torch.zeros(1, dtype=torch.int64, device=channels.device)  # of the image and channel, b * count + c
    found = []
    for _ in range(batch * count):
        with one_graph("upsampler"):
            image, channel = number // count, number % count
            of_image = channels.index_select(0, image).index_select(3, channel)[..., 0].long()
            x = F.embedding(of_image + network.levels * channel, of_channel)
            x = x + F.embedding(gray.index_select(0, image).long(), of_gray)
            x = encode_in_place(network.encoder, x, implementation=implementation)
            found.append(estimate(network.logits(x, implementation=implementation)))
            number += 1
    with one_graph("image"):
        return torch.cat(found).view(batch, count, height, width).permute(0, 2, 3, 1)
