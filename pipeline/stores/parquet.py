"""Reading Parquet: small files whole, others a few rows at a time."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def table_of(source: bytes | Path | Any, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a file's rows, from its bytes, its path or an open `pyarrow.NativeFile`. Raises ArrowException, OSError. Not
    by `pq.read_table`, whose `pyarrow.dataset` takes 50 MB if pandas is installed."""
    opened = pa.BufferReader(source) if isinstance(source, bytes) else source
    with pq.ParquetFile(opened) as parquet:
        return parquet.read(None if columns is None else list(columns))


def batches_of(
    parquet: pq.ParquetFile,
    rows: int,
    columns: Sequence[str] | None = None,
    only: Sequence[int] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield at most so many rows at a time, in memory that does not grow with the file: a few row groups at a time, as
    pyarrow keeps what it reads ahead until all requested groups are read. The pool's unused memory is released. `only`:
    the row groups to read."""
    names = None if columns is None else list(columns)
    for groups in groups_of(parquet.metadata, rows, range(parquet.num_row_groups) if only is None else only):
        yield from parquet.iter_batches(batch_size=rows, row_groups=groups, columns=names)
        pa.default_memory_pool().release_unused()


def groups_of(metadata: pq.FileMetaData, rows: int, only: Iterable[int]) -> Iterator[list[int]]:
    """Yield neighbouring row groups of so many rows together, so that small ones do not make small batches."""
    held: list[int] = []
    left = rows
    for group in only:
        held.append(group)
        left -= metadata.row_group(group).num_rows
        if left <= 0:
            yield held
            held, left = [], rows
    if held:
        yield held
