# SPDX-License-Identifier: Apache-2.0
"""Reads TensorFlow checkpoints without TensorFlow: the "tensor bundle" that tf.train.Checkpoint writes.

    PREFIX.index                   a sorted table: key -> where the tensor lies (an "SSTable", as in LevelDB)
    PREFIX.data-00000-of-00001     the tensors' bytes, one after another, in one or more such shards
    checkpoint                     text that names the newest PREFIX in the directory

The table is a row of blocks. A block holds entries (shared, unshared and value length as varints; what the key adds
to its predecessor's first `shared` bytes; the value), then the offsets of entries with whole keys and their number,
then, outside its stated size, a byte for its compression and the masked CRC-32C of all that. The last 48 bytes of
the file say where the index block is, whose values say where the blocks are. Every checksum on the way is verified.

The original program saves a dictionary of its variables' names, so a key is an escaped name ("/" as ".S", "." as
"..") followed by "/.ATTRIBUTES/VARIABLE_VALUE".
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coltran.checkpoint import CheckpointError
from coltran.original import wire

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_AVERAGE = re.compile(r"/ExponentialMovingAverage(?:_\d+)?(?=:0$)")
_SLOT = re.compile(r"(.+)/\.OPTIMIZER_SLOT/[^/]+/([^/]+)")
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 6: "i1", 9: "<i8", 10: "?", 19: "<f2"}
_STRING = 7
LONGEST = 200  # letters in a name; file systems take few more


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies."""

    dtype: int  # TensorFlow's number
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int  # masked


@dataclass(frozen=True)
class Bundle:
    """The table of a checkpoint; the tensors are read when asked for."""

    prefix: Path
    shards: int
    entries: dict[str, Entry]


def latest(path: str | Path) -> Path | None:
    """The newest checkpoint of a directory, or the one that a path names: its prefix, as in "DIR/model-7".

    A directory's file `checkpoint` decides; without one, the index file with the greatest number does. A file
    `checkpoint` from a directory that was moved is read as if it named the directory that it is in now.
    """
    path = Path(path)
    if not path.is_dir():
        prefix = path.with_suffix("") if path.suffix == ".index" else path
        return prefix if prefix.with_name(f"{prefix.name}.index").is_file() else None
    state = path / "checkpoint"
    if state.is_file():
        named = re.search(r'^model_checkpoint_path: "(.*)"', state.read_text("utf-8", "replace"), re.MULTILINE)
        if named is None or not named[1].isprintable() or max(map(len, named[1].split("/"))) > LONGEST:
            raise CheckpointError(f"{state} is damaged: it names no checkpoint.")
        prefix = path / named[1]
        return prefix if prefix.with_name(f"{prefix.name}.index").is_file() else path / prefix.name
    numbered = [(int(n[1]), p) for p in path.glob("*.index") if (n := re.search(r"-(\d+)\.index$", p.name))]
    return max(numbered)[1].with_suffix("") if numbered else None


def open_bundle(path: str | Path) -> Bundle:
    """Reads the table of a checkpoint, a directory's newest.

    Raises:
        CheckpointError: there is none, its index is damaged, or a data file is missing or cut short.
    """
    prefix = latest(path)
    if prefix is None:
        raise CheckpointError(f"{path} holds no TensorFlow checkpoint.")
    index = prefix.with_name(f"{prefix.name}.index")
    try:
        table = dict(_read_table(index.read_bytes()))
        header = _as_dict(table.pop(b""))
        entries = {key.decode(): _entry(value) for key, value in table.items()}
    except FileNotFoundError as error:
        raise CheckpointError(f"{index} is missing.") from error
    except (ValueError, KeyError, TypeError, struct.error, IndexError, UnicodeDecodeError) as error:
        reason = str(error) if type(error) is ValueError else "it is no index of tensors"
        raise CheckpointError(f"{index} is damaged: {reason}.") from error
    if header.get(2, 0) != 0:
        raise CheckpointError(f"{index} was written on a big-endian machine, which is not supported.")
    bundle = Bundle(prefix, int(header.get(1, 1)), entries)
    _check_shards(bundle)
    return bundle


def _as_dict(message: bytes) -> dict[int, Any]:
    return dict(wire.read_fields(message))


def _entry(message: bytes) -> Entry:
    fields = _as_dict(message)
    dims = [_as_dict(value) for number, value in wire.read_fields(fields.get(2, b"")) if number == 2]
    if 7 in fields:
        raise ValueError("it holds a partitioned tensor, which is not supported")
    dtype, shard, offset, size = (int(fields.get(number, 0)) for number in (1, 3, 4, 5))
    checksum = struct.unpack("<I", fields[6])[0]
    shape = tuple(int(dim.get(1, 0)) for dim in dims)
    return Entry(dtype, shape, shard, offset, size, checksum)


def _read_table(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    if len(file) < _FOOTER or struct.unpack("<Q", file[-8:])[0] != _MAGIC:
        raise ValueError("it does not end as an index does, perhaps it was cut short")
    footer = file[-_FOOTER:]
    position = 0
    for _ in range(2):  # the block of meta data, which is empty
        _, position = wire.read_varint(footer, position)
    for _, handle in _read_block(file, *_handle(footer[position:])):
        yield from _read_block(file, *_handle(handle))


def _handle(data: bytes) -> tuple[int, int]:
    """Where a block starts, and its size."""
    offset, position = wire.read_varint(data, 0)
    return offset, wire.read_varint(data, position)[0]


def _read_block(file: bytes, offset: int, size: int) -> list[tuple[bytes, bytes]]:
    """The entries (key, value) of one block."""
    block, trailer = file[offset : offset + size], file[offset + size : offset + size + 5]
    if len(block) < size or len(trailer) < 5:
        raise ValueError("a block reaches past the end")
    if wire.masked_crc32c(block + trailer[:1]) != struct.unpack("<I", trailer[1:])[0]:
        raise ValueError("a checksum does not match")
    if trailer[0] != 0:
        raise ValueError("its blocks are compressed, which is not supported")
    end = size - 4 - 4 * struct.unpack("<I", block[-4:])[0]
    entries = []
    position, key = 0, b""
    while position < end:
        shared, position = wire.read_varint(block, position)
        unshared, position = wire.read_varint(block, position)
        length, position = wire.read_varint(block, position)
        key = key[:shared] + block[position : position + unshared]
        position += unshared
        entries.append((key, block[position : position + length]))
        position += length
    return entries


def _shard(bundle: Bundle, shard: int) -> Path:
    return bundle.prefix.with_name(f"{bundle.prefix.name}.data-{shard:05d}-of-{bundle.shards:05d}")


def _check_shards(bundle: Bundle) -> None:
    """Every data file is there and as long as the table says, so that a copy cut short is noticed whatever is read."""
    for shard in range(bundle.shards):
        path = _shard(bundle, shard)
        if not path.is_file():
            raise CheckpointError(f"{path} is missing.")
        size = path.stat().st_size
        for key, entry in bundle.entries.items():
            if entry.shard == shard and entry.offset + entry.size > size:
                raise CheckpointError(f"{path} was cut short: it ends before {unescape(key)} does.")


def _read_bytes(bundle: Bundle, key: str) -> bytes:
    entry = bundle.entries[key]
    with open(_shard(bundle, entry.shard), "rb") as file:
        file.seek(entry.offset)
        return file.read(entry.size)


def read_tensor(bundle: Bundle, key: str) -> np.ndarray:
    """One tensor by its key.

    Raises:
        CheckpointError: its file is missing, cut short or damaged, or its type is unknown here.
    """
    entry = bundle.entries[key]
    dtype = _DTYPES.get(entry.dtype)
    if dtype is None:
        raise CheckpointError(f"{unescape(key)} in {bundle.prefix} has TensorFlow's type {entry.dtype}: not supported.")
    data = _read_bytes(bundle, key)
    values = np.frombuffer(data, dtype=dtype)
    if wire.masked_crc32c(data) != entry.checksum or values.size != np.prod(entry.shape, dtype=int):
        raise CheckpointError(f"{bundle.prefix} is damaged: the checksum of {unescape(key)} does not match.")
    return values.reshape(entry.shape).copy()  # frombuffer gives an array that cannot be written to


def unescape(key: str) -> str:
    """The name that a key stands for."""
    return re.sub(r"\.([S.])", lambda match: "/" if match[1] == "S" else ".", key.removesuffix(_VALUE))


def read_variables(bundle: Bundle, ema: bool) -> dict[str, np.ndarray]:
    """{name: array} of the network's variables: their moving averages, or as trained.

    The layer norms inside the conditional ones are not trained and have no average: they are read as they are.

    Raises:
        CheckpointError: `ema`, and a trained variable has no average; or the file is damaged.
    """
    names = {key: unescape(key) for key in bundle.entries if key.endswith(f":0{_VALUE}")}
    raw = {name: key for key, name in names.items() if not _AVERAGE.search(name)}
    averages = {_AVERAGE.sub("", name): key for key, name in names.items() if _AVERAGE.search(name)}
    if not raw:
        raise CheckpointError(f"{bundle.prefix} holds no variables of the original program.")
    if not ema:
        return {name: read_tensor(bundle, key) for name, key in raw.items()}
    if stray := [name for name in averages if name not in raw]:
        raise CheckpointError(f"{bundle.prefix} has averages of variables it does not hold: {', '.join(stray)}.")
    bare = [name for name in raw if name not in averages and "/normalize/" not in name]
    if len(bare) == len(raw) or not averages:
        raise CheckpointError(f"{bundle.prefix} holds no moving averages, only the weights as trained.")
    if bare:
        raise CheckpointError(f"{bundle.prefix} lacks the moving averages of {', '.join(bare)}.")
    return {name: read_tensor(bundle, averages.get(name, key)) for name, key in raw.items()}


def read_step(bundle: Bundle) -> int | None:
    """The number of training steps; None where it was not saved."""
    for name in ("optimizer/iter", "optimizer/_iterations"):
        if name + _VALUE in bundle.entries:
            return int(read_tensor(bundle, name + _VALUE))
    return None


def read_slots(bundle: Bundle) -> dict[str, dict[str, np.ndarray]]:
    """{slot: {variable's name: array}}, what the optimizer keeps beside each variable, such as "rms".

    Older versions of TensorFlow put variable and slot into the key; newer ones number the slots, and tell in the
    object graph that the checkpoint carries what "RMSprop/velocity/NAME" has which number.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for key in bundle.entries:
        if match := _SLOT.fullmatch(key.removesuffix(_VALUE)):
            found.setdefault(match[2], {})[unescape(match[1])] = read_tensor(bundle, key)
    for full_name, key in _full_names(bundle):
        if key.startswith("optimizer/_variables/") and key in bundle.entries and full_name.count("/") >= 2:
            _, slot, name = full_name.split("/", 2)
            found.setdefault(slot, {})[f"{name}:0"] = read_tensor(bundle, key)
    return found


def _full_names(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """(full name, key) of every variable in the object graph."""
    if _GRAPH not in bundle.entries:
        return
    data = _read_bytes(bundle, _GRAPH)
    try:
        length, position = wire.read_varint(data, 0)
        lengths, stored, graph = struct.pack("<I", length), data[position : position + 4], data[position + 4 :]
        whole = wire.masked_crc32c(lengths + stored + graph) == bundle.entries[_GRAPH].checksum
        if bundle.entries[_GRAPH].dtype != _STRING or len(graph) != length or not whole:
            raise ValueError("its checksum does not match")
        for number, node in wire.read_fields(graph):
            for kind, attribute in wire.read_fields(node) if number == 1 else ():
                if kind == 2:
                    fields = _as_dict(attribute)
                    yield str(fields.get(2, b""), "utf-8"), str(fields.get(3, b""), "utf-8")
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{bundle.prefix} is damaged in its object graph.") from error
