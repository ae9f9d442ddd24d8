"""Make Arrow arrays and tables of Python values.

Polars makes them, or Arrow's core: most constructors of pyarrow import pandas, where that is installed, which takes a
third of a second and 30 MB of each process.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import polars as pl
import pyarrow as pa


def array_of(values: Sequence[Any], data_type: pa.DataType) -> pa.Array:
    """Return values as an array. Raises what Polars or Arrow raise for a value that does not fit."""
    return pl.Series(values, dtype=_in_polars(data_type)).to_arrow().cast(data_type)


def table_of_rows(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return rows as a table; what a row has not is null."""
    columns = [array_of([row.get(field.name) for row in rows], field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def empty_table(schema: pa.Schema) -> pa.Table:
    return pa.Table.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)


def empty_frame(schema: pa.Schema) -> pl.DataFrame:
    """Return a frame without rows, of Polars' types for these columns."""
    return pl.DataFrame(empty_table(schema))


@lru_cache(maxsize=1024)
def _in_polars(data_type: pa.DataType) -> pl.DataType:
    return pl.Series(pa.nulls(0, data_type)).dtype
