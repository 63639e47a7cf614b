# SPDX-License-Identifier: Apache-2.0
"""Operations of the Colorization Transformer, each with a plain-torch specification and fast implementations."""

from coltran_kernels.decode import PreparedDecoder, decode_row, prepare_decoder
from coltran_kernels.elementwise import affine
from coltran_kernels.ops import (
    add_layer_norm,
    axial_attention,
    cached_attention,
    linear,
    pack_linear,
)
from coltran_kernels.packed import packed_attention, takes_bfloat16
from coltran_kernels.settle import left_influence, settle_row
from coltran_kernels.shapes import unpack_conditioning
from coltran_kernels.types import DecoderLayer, DecoderWeights, RowLayer, RowTerms, Settled

__all__ = [
    "DecoderLayer",
    "DecoderWeights",
    "PreparedDecoder",
    "RowLayer",
    "RowTerms",
    "Settled",
    "add_layer_norm",
    "affine",
    "axial_attention",
    "cached_attention",
    "decode_row",
    "left_influence",
    "linear",
    "pack_linear",
    "packed_attention",
    "prepare_decoder",
    "settle_row",
    "takes_bfloat16",
    "unpack_conditioning",
]
