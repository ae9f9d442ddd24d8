"""Reading Parquet: small files whole, others a few rows at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def table_of(source: bytes | Path | Any, columns: Sequence[str] | None = None) -> pa.Table:
    """A file's rows, from its bytes, its path or an open `pyarrow.NativeFile`. Raises ArrowException, OSError. Not by
    `pq.read_table`, which goes through `pyarrow.dataset`: that takes 50 MB where pandas is installed."""
    opened = pa.BufferReader(source) if isinstance(source, bytes) else source
    with pq.ParquetFile(opened) as parquet:
        return parquet.read(None if columns is None else list(columns))


def batches_of(parquet: pq.ParquetFile, rows: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """At most so many rows at a time, in memory that does not grow with the file: some row groups after the others, as
    what pyarrow reads ahead it keeps until it has read all that it was asked for. What its pool would keep for later is
    given back."""
    names = None if columns is None else list(columns)
    for groups in _groups_of(parquet.metadata, rows):
        yield from parquet.iter_batches(batch_size=rows, row_groups=groups, columns=names)
        pa.default_memory_pool().release_unused()


def _groups_of(metadata: pq.FileMetaData, rows: int) -> Iterator[list[int]]:
    """Neighbouring row groups that have so many rows together, so that small ones do not make small batches."""
    held: list[int] = []
    left = rows
    for group in range(metadata.num_row_groups):
        held.append(group)
        left -= metadata.row_group(group).num_rows
        if left <= 0:
            yield held
            held, left = [], rows
    if held:
        yield held
