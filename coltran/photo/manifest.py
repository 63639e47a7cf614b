# SPDX-License-Identifier: Apache-2.0
"""What a cluster has made of each photograph: one parquet file, a row for each result or each photograph that failed.

While a run goes on, its rows lie in a folder of small parts beside the file, so that a run that is cut off loses
little; whoever opens the manifest next puts them in.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from coltran.errors import UserError
from coltran.files import WRITING, written_whole

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("file", pa.string()),  # of the result, in the output folder; null where the photograph failed
        ("sample", pa.int32()),
        ("seed", pa.uint64()),
        ("log_probability", pa.float64()),  # mean log2 a pixel of the coarse colours under the colorizer
        ("seconds", pa.float64()),  # its share of the time that its batch took
        ("error", pa.string()),  # a sentence; null where there is a result
    ]
)
EVERY = 30.0  # seconds of rows in a part


class Manifest:
    """The manifest of an output folder.

    Args:
        folder: the output folder, which exists.
        options: how its photographs are coloured; kept in the file.
        wanted: paths whose failures are forgotten, as they are tried again.

    Raises:
        UserError: the folder's manifest was made with other options.
        OSError: it cannot be written.
    """

    def __init__(self, folder: Path, options: Mapping[str, Any], wanted: Collection[str] = ()) -> None:
        self.file = folder / "manifest.parquet"
        self.parts = folder / "manifest-parts"
        text = json.dumps(dict(options), sort_keys=True)
        self.schema = SCHEMA.with_metadata({"coltran": text})
        if self.file.exists():
            there = (pq.read_schema(self.file).metadata or {}).get(b"coltran", b"").decode()
            if there != text:
                raise UserError(f"{self.file} was made with other options, {there}, not {text}: name another folder.")
        self.parts.mkdir(exist_ok=True)
        for unfinished in self.parts.glob(f"{WRITING}*"):
            unfinished.unlink()
        self.owners: dict[str, str] = {}  # {name of results, without number and suffix: path of their photograph}
        self.done = self._merge(wanted)
        self._rows: list[pa.Table] = []
        self._since = time.monotonic()

    def add(self, rows: pa.Table) -> None:
        """Adds rows of whole photographs; they are in a file after `EVERY` seconds."""
        self._rows.append(rows.cast(SCHEMA))
        if time.monotonic() > self._since + EVERY:
            self._write_part()

    def close(self) -> None:
        """Puts all parts into the one file."""
        self._write_part()
        self._merge()
        self.parts.rmdir()

    def _write_part(self) -> None:
        if self._rows:
            with written_whole(self.parts / f"{time.time_ns()}.parquet") as temporary:
                pq.write_table(pa.concat_tables(self._rows).replace_schema_metadata(self.schema.metadata), temporary)
        self._rows, self._since = [], time.monotonic()

    def _merge(self, wanted: Collection[str] = ()) -> set[str]:
        """Puts the parts into the file; returns the paths of the photographs that have results."""
        parts = sorted(self.parts.glob("*.parquet"))
        done: set[str] = set()
        with written_whole(self.file) as temporary, pq.ParquetWriter(temporary, self.schema) as writer:
            for source in [self.file, *parts] if self.file.exists() else parts:
                found: set[str] = set()
                for rows in _batches(source):
                    forgotten = pa.array([path in done for path in rows["path"].to_pylist()], pa.bool_())
                    if wanted:
                        again = pa.array([path in wanted for path in rows["path"].to_pylist()], pa.bool_())
                        forgotten = pc.or_(forgotten, pc.and_(again, pc.is_valid(rows["error"])))
                    rows = rows.filter(pc.invert(forgotten))
                    writer.write_table(rows.replace_schema_metadata(self.schema.metadata))
                    made = rows.filter(pc.is_null(rows["error"]))
                    found.update(made["path"].to_pylist())
                    names = (re.sub(r"-\d+\.\w+$", "", file) for file in made["file"].to_pylist())
                    self.owners.update(zip(names, made["path"].to_pylist(), strict=True))
                done |= found
        for part in parts:
            part.unlink()
        return done


def _batches(path: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield pa.Table.from_batches([batch])


def read(folder: Path) -> pa.Table:
    """The manifest of an output folder, sorted by path and sample."""
    return pq.read_table(folder / "manifest.parquet").sort_by([("path", "ascending"), ("sample", "ascending")])
