# SPDX-License-Identifier: Apache-2.0
"""The autoregressive colorizer (ColTran section 4.1): 512 coarse colours, one pixel after another.

Sizes: B images of H x W pixels, D hidden size, S = 512 labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coltran.config import as_dict, read
from coltran.image import colors_to_labels, rgb_to_gray, to_bits
from coltran.networks.config import ColorizerConfig, DecoderConfig, EncoderConfig
from coltran.networks.layers import (
    AxialAttention,
    AxialEncoder,
    ConditionalNorm,
    Dropout,
    FeedForward,
    Norm,
    PositionEmbedding,
    choose,
    dense,
    embedding,
    shift_down,
    shift_right,
    stack,
)

LABELS = 512


class ColorizerOutput(NamedTuple):
    """Unnormalised log-probabilities of each coarse colour."""

    logits: Tensor  # [B, H, W, 512]
    parallel_logits: Tensor | None  # [B, H, W, 512], of the auxiliary head


class GrayEncoder(nn.Module):
    """A gray image of 256 levels, embedded and encoded."""

    def __init__(self, config: EncoderConfig, height: int, width: int) -> None:
        super().__init__()
        self.embedding = embedding(256, config.hidden_size)
        self.bias = nn.Parameter(torch.zeros(config.hidden_size))
        self.encoder = AxialEncoder(config, height, width)

    def forward(self, gray: Tensor, *, implementation: str | None = None) -> Tensor:
        """Integer [B, H, W] in 0..255 -> [B, H, W, D]."""
        return self.encoder(self.embedding(gray.long()) + self.bias, implementation=implementation)


class _Decoder(nn.Module):
    """What the outer and the inner decoder share: position embedding and conditioned residual layers."""

    def __init__(
        self,
        config: DecoderConfig,
        height: int,
        width: int,
        *,
        layers: int,
        attention: list[tuple[str, bool]],  # (axis, causal) of the attentions of one layer
        encoded: int,  # channels of the gray context z
        context: int,  # channels that condition attention and feed-forward
        condition_attention: bool,  # what None means in cond_att_*
    ) -> None:
        super().__init__()
        hidden, heads = config.hidden_size, config.num_heads
        self.skip = config.skip
        if self.skip and encoded != hidden:
            raise ValueError(f"skip needs encoder.hidden_size {encoded} equal to decoder.hidden_size {hidden}")
        self.position = PositionEmbedding(height, width, hidden)
        switches = (config.cond_att_q, config.cond_att_k, config.cond_att_v, config.cond_att_scale)
        *parts, scaled = (condition_attention if switch is None else switch for switch in switches)
        conditioned = "".join(name for name, on in zip("qkv", parts, strict=True) if on)
        self.attention = stack(
            AxialAttention(
                hidden,
                heads,
                axis=axis,
                length=width if axis == "row" else height,
                causal=causal,
                context=context,
                conditioned=conditioned,
                cond_scale=scaled,
                act=config.cond_att_act,
                init=config.cond_att_init,
            )
            for axis, causal in attention * layers
        )
        self.feed_forward = stack(
            FeedForward(hidden, config.ff_size, context=context, cond_mlp=config.cond_mlp, act=config.cond_mlp_act)
            for _ in self.attention
        )
        self.norms = stack(self._norm(config, height, width, hidden, encoded) for _ in range(2 * len(self.attention)))
        self.dropout = Dropout(config.dropout)

    @staticmethod
    def _norm(config: DecoderConfig, height: int, width: int, hidden: int, encoded: int) -> Norm | ConditionalNorm:
        if not config.cond_ln:
            return Norm(hidden)
        return ConditionalNorm(
            height,
            width,
            hidden,
            encoded,
            sequence=config.cond_ln_seq,
            average=config.cond_ln_sp_ave,
            act=config.cond_ln_act,
            init=config.cond_ln_init,
        )

    def run_layers(self, x: Tensor, z: Tensor, context: Tensor, *, implementation: str | None) -> Tensor:
        """The residual layers on x [B, H, W, D]; norms see z, attention and feed-forward the context."""
        for i, (attention, feed_forward) in enumerate(zip(self.attention, self.feed_forward, strict=True)):
            y = self.dropout(attention(x, context, implementation=implementation))
            x = self.norms[2 * i](y, x, z, implementation=implementation)
            y = self.dropout(feed_forward(x, context, implementation=implementation))
            x = self.norms[2 * i + 1](y, x, z, implementation=implementation)
        return x


class OuterDecoder(_Decoder):
    """Summarises all rows above: layers of unmasked row and masked column attention, shifted down one row."""

    def __init__(self, config: DecoderConfig, height: int, width: int, encoded: int) -> None:
        super().__init__(
            config,
            height,
            width,
            layers=config.num_outer_layers,
            attention=[("row", False), ("column", True)],
            encoded=encoded,
            context=encoded,
            condition_attention=True,
        )

    def forward(self, e: Tensor, z: Tensor, *, implementation: str | None = None) -> Tensor:
        """Embedded colours e and encoded gray z [B, H, W, D] -> [B, H, W, D], where row i knows rows < i only."""
        x = self.position(e)
        if self.skip:
            x = x + z
        return shift_down(self.run_layers(x, z, z, implementation=implementation))


class InnerDecoder(_Decoder):
    """Decodes each row from left to right: layers of masked row attention on the colours shifted right."""

    def __init__(self, config: DecoderConfig, height: int, width: int, encoded: int) -> None:
        super().__init__(
            config,
            height,
            width,
            layers=config.num_inner_layers,
            attention=[("row", True)],
            encoded=encoded,
            context=encoded + config.hidden_size,
            condition_attention=False,
        )

    def forward(self, e: Tensor, upper: Tensor, z: Tensor, *, implementation: str | None = None) -> Tensor:
        """Embedded colours e, rows above and encoded gray, all [B, H, W, D] -> [B, H, W, D]."""
        x = self.position(shift_right(e))
        if self.skip:
            x = x + z + upper
        return self.run_layers(x, z, torch.cat((z, upper), -1), implementation=implementation)


class Colorizer(nn.Module):
    """Draws a coarse colour, one of 8 x 8 x 8, for each pixel of a gray image.

    Args:
        config: the `model` section of a configuration; keys and defaults of the original program.

    Raises:
        ValueError: an option out of its range.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = as_dict(config)
        sizes = read(ColorizerConfig, config, "model")
        self.resolution, encoded, hidden = sizes.resolution, sizes.encoder.hidden_size, sizes.decoder.hidden_size
        if sizes.hidden_size not in (None, hidden):
            raise ValueError(f"hidden_size {sizes.hidden_size} differs from decoder.hidden_size {hidden}")
        has_parallel = choose({"decoder": False, "encoder_decoder": True}, sizes.stage, "stage")
        self.gray_encoder = GrayEncoder(sizes.encoder, *self.resolution)
        self.parallel_logits = dense(encoded, LABELS, bias=False) if has_parallel else None
        self.embedding = embedding(LABELS, hidden)
        self.outer_decoder = OuterDecoder(sizes.decoder, *self.resolution, encoded)
        self.inner_decoder = InnerDecoder(sizes.decoder, *self.resolution, encoded)
        self.norm = Norm(hidden)
        self.logits = dense(hidden, LABELS)

    def encode(self, gray: Tensor, *, implementation: str | None = None) -> Tensor:
        """Integer gray image [B, H, W] in 0..255 -> z [B, H, W, D]."""
        return self.gray_encoder(gray, implementation=implementation)

    def decode(self, labels: Tensor, z: Tensor, *, implementation: str | None = None) -> Tensor:
        """Teacher forcing: labels [B, H, W] in 0..511 and encoded gray z -> logits [B, H, W, 512]."""
        e = F.embedding(labels, self.embedding.weight)
        upper = self.outer_decoder(e, z, implementation=implementation)
        inner = self.inner_decoder(e, upper, z, implementation=implementation)
        return self.logits(self.norm(inner, implementation=implementation), implementation=implementation)

    def forward(self, rgb: Tensor, *, implementation: str | None = None) -> ColorizerOutput:
        """Integer colours [B, H, W, 3] in 0..255 -> logits of each pixel given its predecessors in raster order."""
        z = self.encode(rgb_to_gray(rgb), implementation=implementation)
        head = self.parallel_logits
        parallel = None if head is None else head(z, implementation=implementation)
        labels = colors_to_labels(to_bits(rgb, 8, 3)).long()
        return ColorizerOutput(self.decode(labels, z, implementation=implementation), parallel)
