# SPDX-License-Identifier: Apache-2.0
"""Writes TensorFlow checkpoints as the original program does, for tests: with blocks as small as one likes."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import nn

from coltran.original import variables, wire

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
NUMBERS = {"float32": 1, "int64": 9}


def escape(name: str) -> str:
    return name.replace(".", "..").replace("/", ".S")


def key(name: str) -> str:
    """The key of a variable of the network."""
    return f"{escape(name)}:0{VALUE}"


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
        return write_varint(number << 3 | wire.VARINT) + write_varint(value)
    return write_varint(number << 3 | wire.BYTES) + write_varint(len(value)) + value


def _field32(number: int, value: int) -> bytes:
    return write_varint(number << 3 | wire.FIXED32) + struct.pack("<I", value)


def _block(entries: list[tuple[bytes, bytes]], whole_every: int) -> bytes:
    out, restarts, previous = bytearray(), [], b""
    for i, (name, value) in enumerate(entries):
        shared = 0
        if i % whole_every == 0:
            restarts.append(len(out))
        else:
            shared = len(os.path.commonprefix([previous, name]))
        for number in (shared, len(name) - shared, len(value)):
            out += write_varint(number)
        out += name[shared:] + value
        previous = name
    return bytes(out) + b"".join(struct.pack("<I", r) for r in [*restarts, len(restarts)])


def _table(entries: list[tuple[bytes, bytes]], size: int, whole_every: int) -> bytes:
    file = bytearray()

    def add(block: bytes) -> bytes:
        handle = write_varint(len(file)) + write_varint(len(block))
        file.extend(block + b"\0" + struct.pack("<I", wire.masked_crc32c(block + b"\0")))
        return handle

    chunks = [entries[i : i + size] for i in range(0, len(entries), size)]
    index = [(chunk[-1][0], add(_block(chunk, whole_every))) for chunk in chunks]
    handles = add(_block([], 1)) + add(_block(index, 1))
    return bytes(file) + handles.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def write_bundle(
    prefix: Path, tensors: Mapping[str, np.ndarray], *, shards: int = 1, size: int = 7, whole_every: int = 3
) -> None:
    """The files PREFIX.index and PREFIX.data-*, and `checkpoint` beside them; `tensors` by their keys."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    data = [bytearray() for _ in range(shards)]
    entries = []
    for i, name in enumerate(sorted(tensors, key=str.encode)):
        array, shard = np.ascontiguousarray(tensors[name]), i % shards
        dims = b"".join(write_field(2, write_field(1, int(n))) for n in tensors[name].shape)
        numbers = ((3, shard), (4, len(data[shard])), (5, array.nbytes))
        places = b"".join(write_field(number, value) for number, value in numbers if value)
        kind = write_field(1, NUMBERS[str(array.dtype)]) + write_field(2, dims)
        checksum = wire.masked_crc32c(array.tobytes())
        entries.append((name.encode(), kind + places + _field32(6, checksum)))
        data[shard] += array.tobytes()
    header = (b"", write_field(1, shards) + write_field(3, write_field(1, 1)))
    prefix.with_name(f"{prefix.name}.index").write_bytes(_table([header, *entries], size, whole_every))
    for shard, content in enumerate(data):
        prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}").write_bytes(content)
    (prefix.parent / "checkpoint").write_text(f'model_checkpoint_path: "{prefix.name}"\n')


def numbered(name: str, start: int = 5) -> str:
    """A canonical name with the automatic numbers of a program that had built other layers before."""
    parts = [part.split(".") for part in name.split("/")]
    return "/".join(p[0] if len(p) == 1 else f"{p[0]}_{int(p[1]) + start}" for p in parts)


def tensors_of(network: nn.Module, raw: nn.Module | None = None, step: int = 7) -> dict[str, np.ndarray]:
    """{key: array} of a training's checkpoint: `network` are the averages, `raw` (or they) the weights as trained.

    The optimizer's slots are those of older versions of TensorFlow, the averages squared.
    """
    averages = variables.to_tf_layout(network, network.state_dict())
    weights = variables.to_tf_layout(network, (raw or network).state_dict())
    found: dict[str, np.ndarray] = {f"optimizer/iter{VALUE}": np.array(step, dtype=np.int64)}
    for name, array in averages.items():
        found[key(numbered(name))] = weights[name]
        if "/normalize/" not in name:
            found[key(f"{numbered(name)}/ExponentialMovingAverage")] = array
            found[f"{escape(numbered(name))}:0/.OPTIMIZER_SLOT/optimizer/rms{VALUE}"] = array**2
    return found


def changed(tensors: Mapping[str, np.ndarray], how: str) -> dict[str, np.ndarray]:
    """A colorizer's tensors with one of them removed, added or reshaped, averages included."""
    name = "col_tran_core_5/outer_decoder_5/mask_col_att_0/cond_k/kernel"
    found = dict(tensors)
    for place in (name, f"{name}/ExponentialMovingAverage"):
        if how == "removed":
            del found[key(place)]
        elif how == "reshaped":
            found[key(place)] = tensors[key(place)][:-1]
        else:
            found[key(place.replace("/k", "/z").replace("cond_k", "cond_z"))] = np.zeros(3, dtype=np.float32)
    return found
