"""The digests of a partition's rows, made once when it is opened: identities, contents, fingerprints in stages.

They are 16 bytes each, on local disk where there are many, and each batch gets its part. Where the input is the one
from which the current generation was published, identities and contents are taken from the index of that generation.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.enrichment.attempt import PartitionRun
from pipeline.enrichment.selection import first_rows
from pipeline.journal import answer_keys
from pipeline.sinks import commits
from pipeline.sinks.row_files import INDEX
from pipeline.stores.parquet import batches_of
from pipeline.stores.scratch_folder import ScratchFolder
from schemas.errors import StoreError
from schemas.manifest import Manifest
from stages.contract import GraphStage, TableStage
from stages.execution.row_prints import row_prints
from stages.journal.fingerprints import DIGEST_BYTES, digests

IDENTITY, CONTENT = INDEX.names
_READ_ROWS = 65_536
_HELD_ROWS = 65_536  # whose digests stay in memory: some megabytes
_FIRST_ROWS = 100  # that are compared with the index, fewer than a batch of `_READ_ROWS`
_TYPE = pa.binary(DIGEST_BYTES)


class RowDigests:
    """Columns of digests, of so many rows in the end, which grow row by row: in memory, or in files of a folder."""

    def __init__(self, folder: ScratchFolder, rows: int) -> None:
        self._folder = folder
        self._in_memory = rows <= _HELD_ROWS
        self._held: dict[str, list[bytes]] = {}

    def add(self, name: str, found: bytes) -> None:
        """Add digests, which lie one behind the other, to a column."""
        parts = self._held.setdefault(name, [])
        if self._in_memory:
            parts.append(found)
            return
        with self._path(name).open("ab") as out:
            out.write(found)

    def forget(self, name: str) -> None:
        """Remove a column."""
        if self._held.pop(name, None) is not None and not self._in_memory:
            self._path(name).unlink()

    def keys(self, name: str) -> pl.Series:
        """Return the keys by which a column is joined with journals."""
        found = self._column(name)
        first = found.view(">u8")[:: DIGEST_BYTES // 8] if len(found) else np.empty(0, np.uint64)
        return answer_keys.of_first_bytes(first)

    def encoded(self, start: int, rows: int, names: Iterable[str]) -> bytes:
        """Return some columns of some rows as an Arrow stream."""
        columns = {name: self._column(name)[start : start + rows] for name in names if name in self._held}
        arrays = [_array(found.tobytes()) for found in columns.values()]
        table = pa.table(arrays, names=list(columns))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return bytes(sink.getvalue())

    def _column(self, name: str) -> "npt.NDArray[np.void]":
        kind = np.dtype((np.void, DIGEST_BYTES))
        if self._in_memory or name not in self._held:
            return np.frombuffer(b"".join(self._held.get(name, ())), kind)
        path = self._path(name)
        return np.memmap(path, kind, mode="r") if path.stat().st_size else np.empty(0, kind)

    def _path(self, name: str) -> Path:
        return self._folder / f"digests-{name}"


@dataclass(frozen=True)
class BatchDigests:
    """The digests of a batch's rows, as far as they are known."""

    columns: Mapping[str, pa.Array]

    @classmethod
    def of(cls, data: bytes) -> "BatchDigests":
        """Raises ArrowException."""
        with pa.ipc.open_stream(data) as stream:
            table = stream.read_all().combine_chunks()
        return cls({name: table[name].combine_chunks() for name in table.column_names})

    def texts(self, name: str) -> pl.Series | None:
        """Return a column in hexadecimal, None if it is not known."""
        found = self.columns.get(name)
        return None if found is None else pl.Series(found).bin.encode("hex")

    def index(self) -> pa.Table | None:
        """Return the rows' part of the index; None if it is not known."""
        if not {IDENTITY, CONTENT} <= self.columns.keys():
            return None
        return pa.Table.from_arrays([self.columns[IDENTITY], self.columns[CONTENT]], schema=INDEX)


def sees_source(stage: GraphStage, before: Iterable[GraphStage | TableStage]) -> bool:
    """True if all that a stage reads is as the source has it, so that its rows have the fingerprints that they had when
    the partition was opened."""
    return stage.spec.share and all(
        isinstance(one, GraphStage) and not set(one.fields) & set(stage.reads) for one in before
    )


def fingerprints_of(stage: GraphStage, rows: pl.DataFrame, ids: bytes) -> bytes:
    """Return the fingerprints of rows in a stage."""
    if stage.spec.share:
        return digests(rows, stage.reads)
    texts = [ids[start : start + DIGEST_BYTES].hex() for start in range(0, len(ids), DIGEST_BYTES)]
    return bytes.fromhex("".join(row_prints(stage, rows, texts)))


def add_published(found: RowDigests, work: PartitionRun, rows: int) -> bool:
    """Add the identities and contents of all rows of the partition from the index of its current generation, if that
    was published from this very input by the same key. Returns False, with neither, where it was not."""
    parent = commits.current(work.store, work.partition)
    if parent is None or parent.index is None or not _is_of_input(work, parent, rows):
        return False
    try:
        with work.store.open_input(parent.index.key) as source, pq.ParquetFile(source) as parquet:
            if parquet.metadata.num_rows == rows and parquet.schema_arrow.equals(INDEX):
                batches = batches_of(parquet, _READ_ROWS, INDEX.names)
                if _are_added(found, batches, _first_digests(work)):
                    return True
    except (StoreError, OSError, pa.ArrowException):
        pass
    found.forget(IDENTITY)
    found.forget(CONTENT)
    return False


def _are_added(found: RowDigests, batches: Iterable[pa.RecordBatch], first: tuple[bytes, bytes]) -> bool:
    """Add the rows of an index; False if a stage left one out, so that it has another order than the input, or if the
    `first` rows have other digests."""
    for number, batch in enumerate(batches):
        if any(column.null_count for column in batch.columns):
            return False
        columns = [_bytes(column) for column in batch.columns]
        if not number and not all(column.startswith(part) for column, part in zip(columns, first, strict=True)):
            return False
        for name, column in zip(INDEX.names, columns, strict=True):
            found.add(name, column)
    return True


def _first_digests(work: PartitionRun) -> tuple[bytes, bytes]:
    """Return the identities and contents of the first rows. A digest covers the names and types of its columns: if
    these are equal, all are of the same columns."""
    rows = work.job.snapshot.read(work.partition, first_rows(work.entry.ranges, _FIRST_ROWS))
    return digests(rows, work.job.spec.source.key or rows.columns), digests(rows, rows.columns)


def _is_of_input(work: PartitionRun, parent: Manifest, rows: int) -> bool:
    """True if a generation has all rows of the partition, as they are now."""
    same = parent.kind == "published" and parent.input_fingerprint == work.entry.fingerprint
    return same and 0 < rows == work.entry.rows == parent.counts.rows_in


def _array(found: bytes) -> pa.Array:
    return pa.FixedSizeBinaryArray.from_buffers(_TYPE, len(found) // DIGEST_BYTES, [None, pa.py_buffer(found)])


def _bytes(column: pa.Array) -> bytes:
    start = column.offset * DIGEST_BYTES
    return bytes(memoryview(column.buffers()[1])[start : start + len(column) * DIGEST_BYTES])
