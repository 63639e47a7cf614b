# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tensorboard.summary.writer.record_writer import RecordWriter

from coltran.original.records import Record, RecordError, read_generated, read_records, write_records
from tests.tf_bundle import write_field


def _write_raw(path: Path, data: bytes) -> None:
    """A file of one record that holds any bytes."""
    with open(path, "wb") as file:
        RecordWriter(file).write(data)


def _records(count: int, label: int = 0) -> list[Record]:
    rng = np.random.default_rng(0)
    return [Record(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8), label + i) for i in range(count)]


@pytest.mark.parametrize("label", [-1, 0, 127, 128, 2**40])
def test_records_with_labels_of_any_size_come_back(tmp_path, label):
    records = _records(3, label)
    assert write_records(tmp_path / "a", records) == 3
    for found, expected in zip(read_records(tmp_path / "a", (4, 6)), records, strict=True):
        assert found.label == expected.label and np.array_equal(found.image, expected.image)


def test_values_that_are_not_packed_are_read(tmp_path):
    numbers = b"".join(write_field(1, n) for n in (1, 200, 3))
    features = b""
    for name, values in ((b"image", numbers), (b"label", write_field(1, 9))):
        features += write_field(1, write_field(1, name) + write_field(2, write_field(3, values)))
    _write_raw(tmp_path / "a", write_field(1, features))
    record = next(read_records(tmp_path / "a", (1, 1)))
    assert (record.image.ravel().tolist(), record.label) == ([1, 200, 3], 9)


@pytest.mark.parametrize(
    "damage",
    [lambda x, left=left: x[:left] for left in (3, 11, 12, 60, -1)]
    + [lambda x, n=n: x[:n] + bytes([x[n] ^ 16]) + x[n:][1:] for n in (2, 10, 40, -1)],
    ids=[f"cut at {n}" for n in (3, 11, 12, 60, -1)] + [f"flip in {n}" for n in ("length", "its sum", "data", "sum")],
)
def test_a_truncated_file_or_a_flipped_bit_is_one_sentence(tmp_path, damage):
    path = tmp_path / "gen0.tfrecords"
    write_records(path, _records(1))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RecordError, match=r"gen0\.tfrecords was cut short or damaged in record 0\.$"):
        list(read_records(path, (4, 6)))


def test_an_image_of_another_size_is_one_sentence(tmp_path):
    write_records(tmp_path / "a", _records(1))
    with pytest.raises(RecordError, match="record 0 is no image of 8 x 8 pixels: it holds 72 values"):
        list(read_records(tmp_path / "a", (8, 8)))


@pytest.mark.parametrize("data", [b"hello", b"", write_field(1, b"")], ids=["noise", "empty", "no features"])
def test_another_kind_of_record_is_one_sentence(tmp_path, data):
    _write_raw(tmp_path / "a", data)
    with pytest.raises(RecordError, match="record 0 is no image with a label"):
        list(read_records(tmp_path / "a", (4, 6)))


def test_files_are_read_by_their_numbers(tmp_path):
    for number in range(11):
        write_records(tmp_path / f"gen{number}.tfrecords", _records(1, number))
    (tmp_path / "notes.txt").write_text("not a record")
    assert [record.label for record in read_generated(tmp_path, (4, 6))] == list(range(11))


@pytest.mark.parametrize(
    ("numbers", "name", "reason"),
    [((0, 2), "", r"gen1\.tfrecords is missing"), ((), "nowhere", "There is no folder"), ((), "", "holds no records")],
)
def test_records_that_are_missing_are_one_sentence(tmp_path, numbers, name, reason):
    for number in numbers:
        write_records(tmp_path / f"gen{number}.tfrecords", _records(1))
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
