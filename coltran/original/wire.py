# SPDX-License-Identifier: Apache-2.0
"""The encodings in TensorFlow's checkpoints: varints, protocol buffer fields, masked CRC-32C.

varint     seven bits a byte, the lowest first; the top bit says that another byte follows
field      varint (number * 8 + kind), then the value: varint (0), 8 bytes (1), length and bytes (2), 4 bytes (5)
masked     the CRC-32C rotated right by 15 bits, plus 0xA282EAD8: checksums of data that holds checksums
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import google_crc32c

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def masked_crc32c(data: bytes) -> int:
    """The masked CRC-32C of bytes (RFC 3720, appendix B.4)."""
    checksum = google_crc32c.value(data)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """The unsigned integer at a position, and the position after it.

    Raises:
        ValueError: it has no end, or more than 64 bits.
    """
    value = shift = 0
    while shift < 64 and position < len(data):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("a variable-length integer has no end")


def read_fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields (number, value) of a protocol buffer; the value's kind shows in its type and length.

    Raises:
        ValueError: it is none.
    """
    position = 0
    while position < len(message):
        key, position = read_varint(message, position)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, position = read_varint(message, position)
            yield number, value
            continue
        if kind == BYTES:
            length, position = read_varint(message, position)
        elif kind in (FIXED32, FIXED64):
            length = 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"a field has the unknown kind {kind}")
        if position + length > len(message):
            raise ValueError("a field reaches past the end")
        yield number, message[position : position + length]
        position += length
