# SPDX-License-Identifier: Apache-2.0
"""What the networks read of the `model` section of a configuration: the original's keys and defaults.

A network reads its own section: `read(ColorizerConfig, config, "model")`. The resolution is height and width of the
images that it works on.
"""

from __future__ import annotations

from dataclasses import dataclass

from coltran.config import at_least


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """`model.encoder` of a colorizer: layers of row and column attention."""

    hidden_size: int = at_least(1)
    ff_size: int = at_least(1)
    num_heads: int = at_least(1)
    num_encoder_layers: int = at_least(0)
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """`model.decoder` of a colorizer: the outer and the inner decoder, and what the gray image conditions in them."""

    hidden_size: int = at_least(1)
    ff_size: int = at_least(1)
    num_heads: int = at_least(1)
    num_outer_layers: int = at_least(0)
    num_inner_layers: int = at_least(0)
    resolution: tuple[int, int] = (64, 64)  # no effect: that of the model counts
    dropout: float = 0.0
    skip: bool = True  # whether the gray context is added to the embedded colours
    cond_mlp: str | None = "affine"
    cond_mlp_act: str = "identity"
    cond_ln: bool = True
    cond_ln_act: str = "identity"
    cond_ln_seq: str = "sc"
    cond_ln_sp_ave: str = "learnable"
    cond_ln_init: str = "glorot_uniform"
    cond_att_init: str = "glorot_uniform"
    cond_att_act: str = "identity"
    # Which of queries, keys and values are conditioned, and whether by scales too; None: all in the outer decoder,
    # nothing in the inner one.
    cond_att_q: bool | None = None
    cond_att_k: bool | None = None
    cond_att_v: bool | None = None
    cond_att_scale: bool | None = None


@dataclass(frozen=True, kw_only=True)
class ColorizerConfig:
    """`model` of a colorizer."""

    encoder: EncoderConfig
    decoder: DecoderConfig
    name: str = "coltran_core"
    stage: str = "decoder"  # or "encoder_decoder", with a parallel head
    hidden_size: int | None = at_least(1, None)  # None: the decoder's
    resolution: tuple[int, int] = (64, 64)


@dataclass(frozen=True, kw_only=True)
class UpsamplerConfig(EncoderConfig):
    """`model` of an upsampler: an encoder's keys."""

    name: str = ""
    hidden_size: int = at_least(1, 512)
    resolution: tuple[int, int] = (64, 64)


@dataclass(frozen=True, kw_only=True)
class GuideConfig:
    """`model` of a guide."""

    name: str = "guide"
    hidden_size: int = at_least(1, 256)
    resolution: tuple[int, int] = (64, 64)
