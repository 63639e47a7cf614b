# SPDX-License-Identifier: Apache-2.0
"""The specifications of all operations side by side; each lies in the folder of its operation."""

from coltran_kernels.attention.reference import axial_attention, cached_attention, condition, relative_bias
from coltran_kernels.decode_row.reference import decode_row, decode_row_jacobi, row_logits
from coltran_kernels.draw.reference import draw
from coltran_kernels.layer_norm.reference import add_layer_norm
from coltran_kernels.linear.reference import linear

__all__ = [
    "add_layer_norm",
    "axial_attention",
    "cached_attention",
    "condition",
    "decode_row",
    "decode_row_jacobi",
    "draw",
    "linear",
    "relative_bias",
    "row_logits",
]
