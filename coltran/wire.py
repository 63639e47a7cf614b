# SPDX-License-Identifier: Apache-2.0
"""What TensorFlow's files are made of: variable-length integers, protocol buffer fields, checksums.

    varint     seven bits a byte, the lowest first; the top bit says that another byte follows
    field      varint (number * 8 + kind), then the value: varint (0), 8 bytes (1), length and bytes (2), 4 bytes (5)
    CRC-32C    the remainder modulo the Castagnoli polynomial 0x1EDC6F41, bits reflected, inverted before and after
    masked     the checksum rotated right by 15 bits, plus 0xA282EAD8: checksums of data that holds checksums

The checksum of a long array is that of many equal parts, computed side by side and then joined: to append n bytes is
to apply a linear map over GF(2) to the remainder, a matrix of 32 x 32 bits, here 32 words.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_POLYNOMIAL = 0x82F63B78  # reflected


def _byte_table() -> np.ndarray:
    remainders = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        odd = remainders & 1 == 1
        remainders >>= 1
        remainders[odd] ^= _POLYNOMIAL
    return remainders


_TABLE = _byte_table()


def _apply(matrix: np.ndarray, remainders: np.ndarray) -> np.ndarray:
    """The map whose image of bit i is `matrix[i]`, applied to each of an array of uint32."""
    out = np.zeros_like(remainders)
    for bit in range(32):
        out ^= ((remainders >> bit) & 1) * matrix[bit]
    return out


@functools.lru_cache(maxsize=1024)
def _append(count: int) -> np.ndarray:
    """The map of a remainder to that after `count` more zero bytes."""
    if count == 0:
        return np.uint32(1) << np.arange(32, dtype=np.uint32)
    half = _append(count // 2)
    matrix = _apply(half, half)
    return _TABLE[matrix & 0xFF] ^ (matrix >> 8) if count % 2 else matrix


def crc32c(data: bytes | bytearray | memoryview | np.ndarray) -> int:
    """The CRC-32C of bytes (RFC 3720, appendix B.4)."""
    values = np.frombuffer(data, dtype=np.uint8)
    lanes = 1 << min(12, max(0, len(values).bit_length() // 2 - 2))
    length = max(1, -(-(len(values) + 4) // lanes))  # bytes in a lane; zeros in front do not count
    padded = np.zeros(lanes * length, dtype=np.uint8)
    padded[len(padded) - len(values) :] = values
    remainders = np.zeros(lanes, dtype=np.uint32)
    for column in np.ascontiguousarray(padded.reshape(lanes, length).T):
        remainders = _TABLE[(remainders ^ column) & 0xFF] ^ (remainders >> 8)
    while len(remainders) > 1:
        remainders = _apply(_append(length), remainders[0::2]) ^ remainders[1::2]
        length *= 2
    inverted = _apply(_append(len(values)), np.array([0xFFFFFFFF], dtype=np.uint32))
    return int(remainders[0] ^ inverted[0]) ^ 0xFFFFFFFF


def masked(checksum: int) -> int:
    """The masked form of a checksum."""
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


def write_varint(value: int) -> bytes:
    """A signed or unsigned integer of at most 64 bits, negative ones in two's complement."""
    value &= 2**64 - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def write_field(number: int, value: int | bytes) -> bytes:
    """One field: an integer as a varint, bytes with their length."""
    if isinstance(value, int):
        return write_varint(number << 3 | VARINT) + write_varint(value)
    return write_varint(number << 3 | BYTES) + write_varint(len(value)) + value


def read_packed(data: bytes) -> np.ndarray:
    """A run of varints as int64 [n].

    Raises:
        ValueError: the last one has no end, or one is longer than ten bytes.
    """
    values = np.frombuffer(data, dtype=np.uint8)
    if not len(values):
        return np.zeros(0, dtype=np.int64)
    last = np.flatnonzero(values < 0x80)
    if not len(last) or last[-1] != len(values) - 1:
        raise ValueError("a variable-length integer has no end")
    first = np.concatenate([[0], last[:-1] + 1])
    if (last - first).max() > 9:
        raise ValueError("a variable-length integer has no end")
    place = np.arange(len(values)) - np.repeat(first, last - first + 1)
    parts = (values & 0x7F).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.add.reduceat(parts, first).astype(np.int64)


def write_packed(values: np.ndarray) -> bytes:
    """Whole numbers of 0 .. 255 as a run of varints."""
    levels = np.ascontiguousarray(values, dtype=np.uint8).ravel()
    # From 128 on, a level's own top bit is the mark that a second byte follows: a one.
    pairs = np.stack([levels, levels >> 7], axis=1)
    used = np.stack([np.ones_like(levels, dtype=bool), levels >= 0x80], axis=1)
    return pairs[used].tobytes()
