# SPDX-License-Identifier: Apache-2.0
"""The two parallel upsamplers (ColTran section 4.3): from coarse colours to all, from 64 x 64 to 256 x 256 pixels.

Both treat one channel at a time with shared weights. Sizes: B images of H x W pixels, D hidden size, c channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from coltran.config import as_dict, read
from coltran.networks.config import UpsamplerConfig
from coltran.networks.layers import AxialEncoder, dense, embedding


class _Upsampler(nn.Module):
    """Embedded channel and gray level, one dense layer, an axial encoder, 256 logits."""

    levels: int  # values that an input channel can take

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = as_dict(config)
        sizes = read(UpsamplerConfig, config, "model")
        self.resolution, hidden = sizes.resolution, sizes.hidden_size
        self.channel_embedding = embedding(3 * self.levels, hidden)
        self.gray_embedding = embedding(256, hidden)
        self.input = dense(2 * hidden, hidden)
        self.encoder = AxialEncoder(sizes, *self.resolution)
        self.logits = dense(hidden, 256)

    def tables(self) -> tuple[Tensor, Tensor]:
        """Embedding, concatenation and dense layer as two tables to be summed: [3 levels, D] and [256, D].

        The three are one linear map of one-hot inputs, so each half of the dense layer folds into its table.
        """
        of_channel, of_gray = self.input.weight.chunk(2, 1)
        return self.channel_embedding.weight @ of_channel.T, self.gray_embedding.weight @ of_gray.T + self.input.bias

    def forward(
        self, channels: Tensor, gray: Tensor, channel_index: Tensor | None = None, *, implementation: str | None = None
    ) -> Tensor:
        """Logits of the 256 values of each channel.

        Args:
            channels: integers [B, H, W, c] below `levels`; all three channels, or one.
            gray: integers [B, H, W] in 0..255.
            channel_index: [B] in 0..2, which channel the only one is; None takes them in order from red.
            implementation: passed to the kernels.

        Returns:
            [B, H, W, c, 256].

        Raises:
            ValueError: `channel_index` with more than one channel.
        """
        batch, height, width, count = channels.shape
        if channel_index is None:
            offset = torch.arange(count, device=channels.device)
        elif count == 1:
            offset = channel_index.view(batch, 1, 1, 1)
        else:
            raise ValueError(f"channel_index needs one channel, got {count}")
        of_channel, of_gray = self.tables()
        x = nn.functional.embedding(channels.long() + self.levels * offset, of_channel)
        x = x + nn.functional.embedding(gray.long(), of_gray)[:, :, :, None]
        x = x.permute(0, 3, 1, 2, 4).reshape(batch * count, height, width, -1)  # channels become images
        logits = self.logits(self.encoder(x, implementation=implementation), implementation=implementation)
        return logits.view(batch, count, height, width, 256).permute(0, 2, 3, 1, 4)


class ColorUpsampler(_Upsampler):
    """Coarse colours (3 bits a channel) to 8 bits a channel, at 64 x 64."""

    levels = 8


class SpatialUpsampler(_Upsampler):
    """A 64 x 64 image resized to 256 x 256, to the image at 256 x 256."""

    levels = 256
