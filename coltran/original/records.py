# SPDX-License-Identifier: Apache-2.0
"""Images as TFRecords, in the original program's layout: what one stage of sampling hands to the next.

A record is a tf.train.Example with the features `image` (int64, the levels [H, W, 3] in raster order) and `label`
(int64, one number). TensorBoard's package, which needs no TensorFlow, writes and reads the records with their
checksums; protobuf the messages.

A stage writes gen0.tfrecords; stages that ran side by side write gen0, gen1, ... and are read in that order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from tensorboard.compat.tensorflow_stub import errors
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New
from tensorboard.summary.writer.record_writer import RecordWriter

from coltran.errors import UserError
from coltran.files import written_whole


class RecordError(UserError):
    """Records that are missing, damaged or of the wrong kind."""


class Record(NamedTuple):
    """One image."""

    image: np.ndarray  # uint8 [H, W, 3]
    label: int


def _example_class() -> Any:
    """tf.train.Example, as far as it holds integers.

    Its map of features is declared as what a map is when written, entries of key and value: only so is their order
    ours. The pool is of its own, so that TensorFlow can declare the whole of it in the same process.
    """
    field = descriptor_pb2.FieldDescriptorProto
    fields = {  # message: (field, number, type)
        "Int64List": [("value", 1, field.TYPE_INT64)],
        "Feature": [("int64_list", 3, "Int64List")],
        "Entry": [("key", 1, field.TYPE_STRING), ("value", 2, "Feature")],
        "Features": [("feature", 1, "Entry")],
        "Example": [("features", 1, "Features")],
    }
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="coltran", syntax="proto3")
    for name, parts in fields.items():
        message = file.message_type.add(name=name)
        for part, number, kind in parts:
            many = (name, part) in {("Int64List", "value"), ("Features", "feature")}
            added = message.field.add(name=part, number=number)
            added.label = field.LABEL_REPEATED if many else field.LABEL_OPTIONAL
            if isinstance(kind, str):
                added.type, added.type_name = field.TYPE_MESSAGE, f".coltran.{kind}"
            else:
                added.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("coltran.Example"))


_Example = _example_class()


def write_records(path: str | Path, records: Iterable[Record]) -> int:
    """Writes records whole or not at all: the file appears when the last one is written. Returns their number.

    Raises:
        OSError: it cannot be written. Whatever `records` raises passes through; no file is left behind.
    """
    path = Path(path)
    count = 0
    with written_whole(path) as temporary, open(temporary, "wb") as file:
        writer = RecordWriter(file)
        for record in records:
            example = _Example()
            for name, values in (("label", [record.label]), ("image", record.image.ravel().tolist())):
                example.features.feature.add(key=name).value.int64_list.value.extend(values)
            writer.write(example.SerializeToString())
            count += 1
    return count


def read_records(path: str | Path, shape: tuple[int, int]) -> Iterator[Record]:
    """The records of one file.

    Args:
        shape: height and width that every image must have.

    Raises:
        RecordError: the file is missing, cut short or damaged, or an image has another size.
    """
    if not Path(path).is_file():
        raise RecordError(f"{path} is missing.")
    reader = PyRecordReader_New(str(path))
    number = 0
    while True:
        try:
            reader.GetNext()
        except errors.OutOfRangeError:
            return
        except errors.DataLossError as error:
            raise RecordError(f"{path} was cut short or damaged in record {number}.") from error
        yield _parse(reader.record(), shape, f"{path}, record {number}")
        number += 1


def _parse(data: bytes, shape: tuple[int, int], place: str) -> Record:
    try:
        features = {entry.key: entry.value.int64_list.value for entry in _Example.FromString(data).features.feature}
        image, label = np.array(features["image"], dtype=np.int64), features["label"][0]
    except (DecodeError, KeyError, IndexError) as error:
        raise RecordError(f"{place} is no image with a label.") from error
    height, width = shape
    if image.size != height * width * 3 or image.min() < 0 or image.max() > 255:
        raise RecordError(f"{place} is no image of {height} x {width} pixels: it holds {image.size} values.")
    return Record(image.astype(np.uint8).reshape(height, width, 3), label)


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
