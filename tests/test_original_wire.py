# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from coltran.original import wire
from tests.tf_bundle import write_field, write_varint


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
def test_the_checksum_is_that_of_rfc_3720_and_masked_as_in_leveldb(data, checksum):
    unmasked = wire.masked_crc32c(data) - 0xA282EAD8 & 0xFFFFFFFF
    assert (unmasked >> 17 | unmasked << 15) & 0xFFFFFFFF == checksum


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**32, 2**64 - 1])
def test_a_varint_comes_back(value):
    data = write_varint(value)
    assert wire.read_varint(b"\xff" + data + b"\xff", 1) == (value, 1 + len(data))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 11])
def test_a_varint_without_end_is_refused(data):
    with pytest.raises(ValueError, match="no end"):
        wire.read_varint(data, 0)


def test_fields_come_back_in_order():
    message = write_field(1, 300) + write_field(2, b"abc") + b"\x1d1234" + b"\x2112345678"
    assert list(wire.read_fields(message)) == [(1, 300), (2, b"abc"), (3, b"1234"), (4, b"12345678")]


@pytest.mark.parametrize("message", [b"\x0a\x05abc", b"\x0b", b"\x0a", b"\x1d123"])
def test_a_message_that_is_none_is_refused(message):
    with pytest.raises(ValueError):
        list(wire.read_fields(message))
