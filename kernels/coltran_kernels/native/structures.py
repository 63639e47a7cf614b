# SPDX-License-Identifier: Apache-2.0
"""The structs and functions of the C++ headers and of interface.cpp for ctypes. What each field is: there."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_char_p, c_float, c_int, c_int64, c_void_p

from torch import Tensor


class Term(Structure):
    _fields_ = [("data", c_void_p), ("image", c_int64), ("pixel", c_int64)]


class Layer(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("qkv", "out", "ff1", "ff2", "ff1_bias", "ff2_bias", "bias")),
        *((name, Term) for name in ("qkv_scale", "qkv_shift", "ff_scale", "ff_shift")),
        *((name, Term) for name in ("norm1_scale", "norm1_shift", "norm2_scale", "norm2_shift")),
    ]


class Row(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("batch", "width", "hidden", "ff", "heads", "labels", "layers")),
        ("layer", POINTER(Layer)),
        *((name, Term) for name in ("inputs", "first")),
        *((name, c_void_p) for name in ("embedding", "table", "norm_weight", "norm_bias", "logits", "logits_bias")),
        *((name, c_void_p) for name in ("uniforms", "given", "guidance")),
        *((name, c_int64) for name in ("argmax", "bfloat16")),
        *((name, c_float) for name in ("temperature", "top_p", "eps", "unused")),
        *((name, c_void_p) for name in ("drawn", "log_prob", "guided_log_prob", "probabilities", "workspace")),
    ]


class Column(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("batch", "width", "heads", "channels", "length")),
        *((name, Term) for name in ("q", "keys", "values")),
        *((name, c_int64) for name in ("head", "step")),
        ("bias", c_void_p),
        ("bias_stride", c_int64),
        *((name, c_void_p) for name in ("out", "workspace")),
    ]


class Lines(Structure):
    _fields_ = [("data", c_void_p), *((name, c_int64) for name in ("image", "line", "position", "head"))]


class Axial(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("batch", "lines", "length", "heads", "channels")),
        *((f"{x}{part}", Lines) for x in "qkv" for part in ("", "_scale", "_shift")),
        ("out", Lines),
        ("bias", c_void_p),
        *((name, c_int64) for name in ("bias_stride", "causal", "bfloat16")),
        ("workspace", c_void_p),
    ]


class AxialGradients(Structure):
    _fields_ = [
        ("forward", Axial),
        ("grad", Lines),
        *((f"{x}{part}", Lines) for x in "qkv" for part in ("", "_scale", "_shift")),
        ("bias", c_void_p),
    ]


def declare(library: ctypes.CDLL) -> None:
    """Gives the library's functions their types.

    Raises:
        OSError: the library's structs are not those above.
    """
    sizes = (c_int64 * 6)()
    library.coltran_sizes.argtypes = [POINTER(c_int64)]
    library.coltran_sizes.restype = None
    library.coltran_sizes(sizes)
    expected = [ctypes.sizeof(kind) for kind in (Term, Layer, Row, Column, Axial, AxialGradients)]
    if list(sizes) != expected:
        raise OSError(f"{library._name} has structs of {list(sizes)} bytes, expected {expected}")
    library.coltran_target.argtypes, library.coltran_target.restype = [c_int], c_char_p
    library.coltran_workspace.argtypes, library.coltran_workspace.restype = [POINTER(Row), c_int], c_int64
    library.coltran_decode_row.argtypes, library.coltran_decode_row.restype = [POINTER(Row), c_int, c_int], None
    library.coltran_attend_columns.argtypes = [POINTER(Column), c_int, c_int]
    library.coltran_attend_columns.restype = None
    library.coltran_axial_scratch.argtypes, library.coltran_axial_scratch.restype = [POINTER(Axial)], c_int64
    for size in (library.coltran_backward_scratch, library.coltran_backward_groups):
        size.argtypes, size.restype = [POINTER(Axial)], c_int64
    library.coltran_axial_backward.argtypes = [POINTER(AxialGradients), c_int, c_int]
    library.coltran_axial_backward.restype = None
    library.coltran_axial.argtypes, library.coltran_axial.restype = [POINTER(Axial), c_int, c_int], None


def term(tensor: Tensor | None) -> Term:
    """[B, W, N], or [B, N] and [N] which are the same for every pixel and image; contiguous along N."""
    if tensor is None:
        return Term(None, 0, 0)
    strides = tensor.stride()[:-1]
    image, pixel = (*strides, 0, 0)[:2]
    return Term(tensor.data_ptr(), image, pixel)
