"""Read a partition's rows in parts, from the local Parquet file that a barrier gets."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

PART_ROWS = 20_000


def parts(source: Path, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
    """Yield the rows in order, PART_ROWS at once, with the named columns."""
    with pq.ParquetFile(source) as file:
        for batch in file.iter_batches(PART_ROWS, columns=None if columns is None else list(columns)):
            rows = pl.from_arrow(batch)
            assert isinstance(rows, pl.DataFrame)
            yield rows
