# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from coltran import wire
from coltran.records import Record, RecordError, read_generated, read_records, write_records


def _records(count: int, label: int = 0) -> list[Record]:
    rng = np.random.default_rng(label)
    return [Record(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8), label + i) for i in range(count)]


def _same(found: list[Record], expected: list[Record]) -> bool:
    equal = [a.label == b.label and np.array_equal(a.image, b.image) for a, b in zip(found, expected, strict=True)]
    return all(equal)


def test_records_come_back(tmp_path):
    records = _records(3)
    assert write_records(tmp_path / "gen0.tfrecords", records) == 3
    assert _same(list(read_records(tmp_path / "gen0.tfrecords", (4, 6))), records)


@pytest.mark.parametrize("label", [-1, 0, 127, 128, 2**40])
def test_a_label_of_any_size_comes_back(tmp_path, label):
    write_records(tmp_path / "a", [Record(np.zeros((1, 1, 3), np.uint8), label)])
    assert next(read_records(tmp_path / "a", (1, 1))).label == label


def test_an_independent_reader_finds_the_checksums_right(tmp_path):
    reader = pytest.importorskip("tensorboard.compat.tensorflow_stub.pywrap_tensorflow")
    records = _records(3)
    write_records(tmp_path / "gen0.tfrecords", records)
    found = reader.PyRecordReader_New(str(tmp_path / "gen0.tfrecords").encode())
    for _ in records:
        found.GetNext()
    with pytest.raises(Exception, match="No more events"):
        found.GetNext()


def test_values_that_are_not_packed_are_read(tmp_path):
    numbers = b"".join(wire.write_field(1, n) for n in (1, 200, 3))
    features = b""
    for name, values in ((b"image", numbers), (b"label", wire.write_field(1, 9))):
        feature = wire.write_field(3, values)
        features += wire.write_field(1, wire.write_field(1, name) + wire.write_field(2, feature))
    data = wire.write_field(1, features)
    length = struct.pack("<Q", len(data))
    sums = [struct.pack("<I", wire.masked(wire.crc32c(part))) for part in (length, data)]
    (tmp_path / "a").write_bytes(length + sums[0] + data + sums[1])
    record = next(read_records(tmp_path / "a", (1, 1)))
    assert (record.image.ravel().tolist(), record.label) == ([1, 200, 3], 9)


@pytest.mark.parametrize("left", [3, 11, 12, 60, -1])
def test_a_truncated_file_is_one_sentence(tmp_path, left):
    path = tmp_path / "gen0.tfrecords"
    write_records(path, _records(1))
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(RecordError, match=r"gen0\.tfrecords was cut short in record 0\.$"):
        list(read_records(path, (4, 6)))


@pytest.mark.parametrize(("place", "reason"), [(2, "the length of record 0"), (40, "in record 0"), (-1, "in record 0")])
def test_a_flipped_bit_is_noticed(tmp_path, place, reason):
    path = tmp_path / "gen0.tfrecords"
    write_records(path, _records(1))
    content = bytearray(path.read_bytes())
    content[place] ^= 16
    path.write_bytes(content)
    with pytest.raises(RecordError, match=f"is damaged.* {reason}"):
        list(read_records(path, (4, 6)))


def test_an_image_of_another_size_is_one_sentence(tmp_path):
    write_records(tmp_path / "a", _records(1))
    with pytest.raises(RecordError, match="record 0 is no image of 8 x 8 pixels: it holds 72 values"):
        list(read_records(tmp_path / "a", (8, 8)))


def test_another_kind_of_record_is_one_sentence(tmp_path):
    data = b"hello"
    length = struct.pack("<Q", len(data))
    sums = [struct.pack("<I", wire.masked(wire.crc32c(part))) for part in (length, data)]
    (tmp_path / "a").write_bytes(length + sums[0] + data + sums[1])
    with pytest.raises(RecordError, match="record 0 is no image with a label"):
        list(read_records(tmp_path / "a", (4, 6)))


def test_files_are_read_by_their_numbers(tmp_path):
    for number in range(11):
        write_records(tmp_path / f"gen{number}.tfrecords", _records(1, number))
    (tmp_path / "notes.txt").write_text("not a record")
    assert [record.label for record in read_generated(tmp_path, (4, 6))] == list(range(11))


def test_a_missing_file_is_named(tmp_path):
    for number in (0, 2):
        write_records(tmp_path / f"gen{number}.tfrecords", _records(1))
    with pytest.raises(RecordError, match=r"gen1\.tfrecords is missing"):
        list(read_generated(tmp_path, (4, 6)))


@pytest.mark.parametrize(("name", "reason"), [("nowhere", "There is no folder"), ("", "holds no records")])
def test_no_records_are_one_sentence(tmp_path, name, reason):
    with pytest.raises(RecordError, match=reason):
        list(read_generated(tmp_path / name, (4, 6)))


def test_what_fails_half_way_leaves_the_old_file_alone(tmp_path: Path):
    def failing() -> Iterator[Record]:
        yield from _records(1)
        raise KeyboardInterrupt

    write_records(tmp_path / "gen0.tfrecords", _records(2))
    before = (tmp_path / "gen0.tfrecords").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_records(tmp_path / "gen0.tfrecords", failing())
    assert [path.name for path in tmp_path.iterdir()] == ["gen0.tfrecords"]
    assert (tmp_path / "gen0.tfrecords").read_bytes() == before


def test_the_originals_records_are_read_and_written_to_the_byte(parity, parity_folder, tmp_path):
    expected = parity("gen0_expected")
    records = list(read_records(parity_folder / "gen0.tfrecords", (64, 64)))
    np.testing.assert_array_equal(np.stack([record.image for record in records]), expected["images"])
    assert [record.label for record in records] == expected["labels"].tolist()
    write_records(tmp_path / "again", records)
    assert (tmp_path / "again").read_bytes() == (parity_folder / "gen0.tfrecords").read_bytes()
