"""A partition's rows a part at a time, as a barrier finds them: in one local Parquet file."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

PART_ROWS = 20_000


def parts(source: Path, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
    """In order, so many rows at once, the named columns of them."""
    with pq.ParquetFile(source) as file:
        for batch in file.iter_batches(PART_ROWS, columns=None if columns is None else list(columns)):
            found = pl.from_arrow(batch)
            assert isinstance(found, pl.DataFrame)
            yield found
