"""A partition's rows compared with those of its current generation, by the index of that generation."""

import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.enrichment.selection import RowSelection, first_rows
from pipeline.planning.job import Job
from pipeline.progress_note import Note
from pipeline.sinks.row_files import INDEX, in_binary, numbers_of
from pipeline.sources.snapshot import Entry
from pipeline.stores import Store
from pipeline.stores.parquet import batches_of
from schemas.errors import ObjectMissing
from schemas.plan import RowChanges
from stages.journal.fingerprints import digests

_ROWS = {"row_id": pl.UInt64, "content": pl.UInt64, "filtered": pl.Boolean}
_READ_ROWS = 65_536


def row_changes(job: Job, store: Store, entry: Entry, rows: int, index: str, note: Note) -> RowChanges:
    """Compare the first `rows` rows. Raises InputChanged."""
    return compared(_published(store, index), _present(job, entry, rows, note))


def compared(before: pl.DataFrame, now: pl.DataFrame) -> RowChanges:
    """Compare rows by identity, and equal ones by occurrence. A row has changed if its content has, or if it was left
    out before, when its content was not noted, and is not `filtered` any more."""
    numbered = pl.int_range(pl.len()).over("row_id").alias("occurrence")
    both = now.with_columns(numbered).join(
        before.with_columns(numbered), on=["row_id", "occurrence"], how="inner", suffix="_before"
    )
    noted = pl.col("content_before").is_not_null()
    differs = pl.when(noted).then(pl.col("content") != pl.col("content_before")).otherwise(~pl.col("filtered"))
    changed = both.filter(differs).height
    return RowChanges(
        new=now.height - both.height,
        changed=changed,
        unchanged=both.height - changed,
        removed=before.height - both.height,
    )


def _present(job: Job, entry: Entry, rows: int, note: Note) -> pl.DataFrame:
    key = job.spec.source.key
    parts = [pl.DataFrame(schema=_ROWS)]
    for read in job.snapshot.frames(entry.partition, first_rows(entry.ranges, rows)):
        names, contents = (numbers_of(digests(read, columns)) for columns in (key or read.columns, read.columns))
        parts.append(pl.DataFrame({"row_id": names, "content": contents, "filtered": False}, schema=_ROWS))
        note(read.height)
    return pl.concat(parts).with_columns(filtered=_filtered(job, entry, rows, note))


def _filtered(job: Job, entry: Entry, rows: int, note: Note) -> pl.Series:
    """Return True for each row that the first stages leave out before the others are cut into batches."""
    filtered = np.zeros(rows, dtype=np.bool_)
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        selection = RowSelection.of(job, entry, rows, Path(folder), note)
        kept = selection.kept() if selection is not None else None
    if kept is not None:
        filtered[:] = True
        filtered[kept] = False
    return pl.Series(filtered)


def _published(store: Store, key: str) -> pl.DataFrame:
    parts = [pl.DataFrame(schema=_ROWS).drop("filtered")]
    try:
        with store.open_input(key) as source, pq.ParquetFile(source) as parquet:
            for batch in batches_of(parquet, _READ_ROWS, INDEX.names):
                table = in_binary(pa.Table.from_batches([batch]))
                parts.append(pl.DataFrame({name: _numbers(table[name]) for name in INDEX.names}))
    except (ObjectMissing, OSError, pa.ArrowException):  # damaged: it is derived, and all rows count as new
        return parts[0]
    return pl.concat(parts)


def _numbers(column: pa.ChunkedArray) -> pl.Series:
    """Return the first eight bytes of digests, null for nulls."""
    texts = pl.Series(column).bin.slice(0, 8)
    return texts.bin.reinterpret(dtype=pl.UInt64, endianness="big")
