# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from coltran import wire


def _bitwise(data: bytes) -> int:
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (0x82F63B78 if remainder & 1 else 0)
    return remainder ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
    ],
    ids=["zeros", "ones", "rising", "falling", "digits"],
)
def test_the_checksum_is_that_of_rfc_3720(data, checksum):
    assert wire.crc32c(data) == checksum


@pytest.mark.parametrize("size", [*range(12), 63, 64, 65, 255, 1023, 4097, 20000])
def test_the_checksum_in_parts_is_the_checksum_bit_by_bit(size):
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8).tobytes()
    assert wire.crc32c(data) == _bitwise(data)


def test_a_checksum_is_masked_as_in_leveldb():
    checksum = wire.crc32c(b"foo")
    unmasked = wire.masked(checksum) - 0xA282EAD8 & 0xFFFFFFFF
    assert (unmasked >> 17 | unmasked << 15) & 0xFFFFFFFF == checksum != wire.masked(checksum)


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**32, 2**64 - 1])
def test_a_varint_comes_back(value):
    data = wire.write_varint(value)
    assert wire.read_varint(b"\xff" + data + b"\xff", 1) == (value, 1 + len(data))


def test_negative_integers_are_in_twos_complement():
    assert wire.write_varint(-1) == b"\xff" * 9 + b"\x01"
    np.testing.assert_array_equal(wire.read_packed(wire.write_varint(-5) + b"\x07"), [-5, 7])


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 11])
def test_a_varint_without_end_is_refused(data):
    with pytest.raises(ValueError, match="no end"):
        wire.read_varint(data, 0)


def test_every_level_comes_back_from_a_packed_run():
    levels = np.arange(256).reshape(16, 16)
    data = wire.write_packed(levels)
    assert data == b"".join(wire.write_varint(int(level)) for level in range(256))
    np.testing.assert_array_equal(wire.read_packed(data), levels.ravel())


@pytest.mark.parametrize("data", [b"\x80", b"\x01\x80", b"\x80" * 10 + b"\x01"])
def test_a_packed_run_without_end_is_refused(data):
    with pytest.raises(ValueError, match="no end"):
        wire.read_packed(data)


def test_fields_come_back_in_order():
    message = wire.write_field(1, 300) + wire.write_field(2, b"abc") + b"\x1d1234" + b"\x2112345678"
    assert list(wire.read_fields(message)) == [(1, 300), (2, b"abc"), (3, b"1234"), (4, b"12345678")]


@pytest.mark.parametrize("message", [b"\x0a\x05abc", b"\x0b", b"\x0a", b"\x1d123"])
def test_a_message_that_is_none_is_refused(message):
    with pytest.raises(ValueError):
        list(wire.read_fields(message))
