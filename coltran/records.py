# SPDX-License-Identifier: Apache-2.0
"""Images as TFRecords, in the original program's layout: what one stage of sampling hands to the next.

    file      records, one after another
    record    length (8 bytes), masked CRC-32C of the length, data, masked CRC-32C of the data
    data      a tf.train.Example with the features `image` (int64, the levels [H, W, 3] in raster order) and
              `label` (int64, one number)

A stage writes gen0.tfrecords; stages that ran side by side write gen0, gen1, ... and are read in that order.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from coltran import wire
from coltran.files import written_whole


class RecordError(ValueError):
    """Records that are missing, damaged or of the wrong kind; the message is one sentence."""


class Record(NamedTuple):
    """One image."""

    image: np.ndarray  # uint8 [H, W, 3]
    label: int


def write_records(path: str | Path, records: Iterable[Record]) -> int:
    """Writes records whole or not at all: the file appears when the last one is written. Returns their number.

    Raises:
        OSError: it cannot be written. Whatever `records` raises passes through; no file is left behind.
    """
    path = Path(path)
    count = 0
    with written_whole(path) as temporary, open(temporary, "wb") as file:
        for record in records:
            data = _example(record)
            length = struct.pack("<Q", len(data))
            file.write(length + _checksum(length) + data + _checksum(data))
            count += 1
    return count


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", wire.masked(wire.crc32c(data)))


def _example(record: Record) -> bytes:
    features = b""
    for name, values in ((b"label", wire.write_varint(record.label)), (b"image", wire.write_packed(record.image))):
        feature = wire.write_field(3, wire.write_field(1, values))
        features += wire.write_field(1, wire.write_field(1, name) + wire.write_field(2, feature))
    return wire.write_field(1, features)


def read_records(path: str | Path, shape: tuple[int, int]) -> Iterator[Record]:
    """The records of one file.

    Args:
        shape: height and width that every image must have.

    Raises:
        RecordError: the file is missing, cut short or damaged, or an image has another size.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise RecordError(f"{path} is missing.") from error
    position = number = 0
    while position < len(content):
        end = position + 12
        if end <= len(content):
            length = struct.unpack_from("<Q", content, position)[0]
            if _checksum(content[position : position + 8]) != content[position + 8 : end]:
                raise RecordError(f"{path} is damaged in the length of record {number}.")
            end += length + 4
        if end > len(content):
            raise RecordError(f"{path} was cut short in record {number}.")
        data = content[position + 12 : end - 4]
        if _checksum(data) != content[end - 4 : end]:
            raise RecordError(f"{path} is damaged in record {number}.")
        yield _parse(data, shape, f"{path}, record {number}")
        position, number = end, number + 1


def _parse(data: bytes, shape: tuple[int, int], place: str) -> Record:
    try:
        features: dict[bytes, np.ndarray] = {}
        for entry in _parts(_parts(data, 1)[0], 1):
            feature = dict(wire.read_fields(entry))
            features[feature[1]] = _integers(_parts(feature[2], 3)[0])
        image, label = features[b"image"], int(features[b"label"][0])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise RecordError(f"{place} is no image with a label.") from error
    height, width = shape
    if image.size != height * width * 3 or image.min() < 0 or image.max() > 255:
        raise RecordError(f"{place} is no image of {height} x {width} pixels: it holds {image.size} values.")
    return Record(image.astype(np.uint8).reshape(height, width, 3), label)


def _parts(message: bytes, number: int) -> list[Any]:
    return [value for found, value in wire.read_fields(message) if found == number]


def _integers(message: bytes) -> np.ndarray:
    """The values of an Int64List, whether packed or one by one."""
    values = [wire.read_packed(part) if isinstance(part, bytes) else np.array([part]) for part in _parts(message, 1)]
    return np.concatenate(values)


def generated_files(folder: str | Path) -> list[Path]:
    """gen0.tfrecords, gen1.tfrecords, ... of a folder, by their number.

    Raises:
        RecordError: there is none, or one before the last is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RecordError(f"There is no folder {folder} with the previous stage's records.")
    found = {int(m[1]): p for p in folder.iterdir() if (m := re.fullmatch(r"gen(\d+)\.tfrecords", p.name))}
    if not found:
        raise RecordError(f"{folder} holds no records of the previous stage: no gen0.tfrecords.")
    for number in range(max(found)):
        if number not in found:
            raise RecordError(f"{folder / f'gen{number}.tfrecords'} is missing.")
    return [found[number] for number in sorted(found)]


def read_generated(folder: str | Path, shape: tuple[int, int]) -> Iterator[Record]:
    """The records of all files of a folder, in the order of the files' numbers; raises as the two above."""
    for path in generated_files(folder):
        yield from read_records(path, shape)
