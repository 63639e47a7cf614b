# SPDX-License-Identifier: Apache-2.0
"""Operations of the Colorization Transformer, each with a plain-torch specification and fast implementations."""

from coltran_kernels.attention import (
    append_attention,
    axial_attention,
    cached_attention,
    packed_attention,
    row_attention,
    takes_bfloat16,
)
from coltran_kernels.attention.packing import unpack_conditioning
from coltran_kernels.decode_row import PreparedDecoder, decode_row, prepare_decoder
from coltran_kernels.decode_row.row import residual_layer, row_pass
from coltran_kernels.draw import begin_row, row_state, settle
from coltran_kernels.elementwise import affine
from coltran_kernels.layer_norm import add_layer_norm
from coltran_kernels.linear import fused_linear, linear, pack_linear
from coltran_kernels.types import (
    DecodedRow,
    DecoderLayer,
    DecoderWeights,
    Epilogue,
    Pending,
    RowConditioning,
    RowDraws,
    RowLayer,
    RowState,
    SamplingOptions,
)

__all__ = [
    "DecodedRow",
    "DecoderLayer",
    "DecoderWeights",
    "Epilogue",
    "Pending",
    "PreparedDecoder",
    "RowConditioning",
    "RowDraws",
    "RowLayer",
    "RowState",
    "SamplingOptions",
    "add_layer_norm",
    "affine",
    "append_attention",
    "axial_attention",
    "begin_row",
    "cached_attention",
    "decode_row",
    "fused_linear",
    "linear",
    "pack_linear",
    "packed_attention",
    "prepare_decoder",
    "residual_layer",
    "row_attention",
    "row_pass",
    "row_state",
    "settle",
    "takes_bfloat16",
    "unpack_conditioning",
]
