"""The rows of a partition as a lazy plan: Polars asks for the columns and the rows that the plan needs."""

from collections.abc import Iterator, Sequence

import polars as pl
from polars.io.plugins import register_io_source

from pipeline.progress_note import Note
from pipeline.sources.snapshot import Snapshot
from schemas.arrow_tables import empty_frame
from schemas.staging import RowRange


def scan_rows(snapshot: Snapshot, partition: str, ranges: Sequence[RowRange], number: str, note: Note) -> pl.LazyFrame:
    """Return the rows of some ranges, read as the plan is run, with their numbers from 0 in the column `number`."""
    types = empty_frame(snapshot.schema).schema
    names = list(types)

    def read(
        columns: list[str] | None, predicate: pl.Expr | None, limit: int | None, _: int | None
    ) -> Iterator[pl.DataFrame]:
        wanted = [*names, number] if columns is None else columns
        start = 0
        for rows in snapshot.frames(partition, ranges, [name for name in names if name in wanted] or names[:1]):
            numbers = pl.int_range(start, start + rows.height, dtype=pl.Int64, eager=True).alias(number)
            start += rows.height
            frame = rows.with_columns(numbers).select(wanted)
            if predicate is not None:
                frame = frame.filter(predicate)
            note(0)
            yield frame if limit is None else frame.head(limit)
            if limit is not None:
                limit -= min(limit, frame.height)
                if not limit:
                    return

    return register_io_source(read, schema={**types, number: pl.Int64()}, is_pure=True)
