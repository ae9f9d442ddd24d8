"""Fingerprints of rows: 128-bit digests of chosen columns' values, the same in every process and version of Polars.

Each value is written as `<kind><length>:<bytes>`, so that neighbouring values cannot be confused, and 1, "1", 1.0 and
true differ. Temporal values go by their integer, floats by their bits, never by a library's formatting.
"""

import hashlib
import json
from collections.abc import Iterable

import numpy as np
import polars as pl

NULL = "-"


def fingerprints(frame: pl.DataFrame, columns: Iterable[str]) -> list[str]:
    """Return one hex digest (32 characters) a row over the named columns, in their sorted order."""
    names = sorted(columns)
    if not names:
        return [hashlib.blake2b(b"", digest_size=16).hexdigest()] * frame.height
    salt = hashlib.blake2b("\0".join(names).encode(), digest_size=16)
    out = []
    for text in row_texts(frame, names):
        state = salt.copy()
        state.update(text.encode())
        out.append(state.hexdigest())
    return out


def row_texts(frame: pl.DataFrame, columns: Iterable[str]) -> list[str]:
    """Return the named columns' values of each row as one unambiguous text."""
    kinds, values = zip(*(_text(frame[name]) for name in columns), strict=True)
    numbered = pl.DataFrame([value.alias(f"{index}") for index, value in enumerate(values)])
    encoded = numbered.select(_encoded(f"{index}", kind) for index, kind in enumerate(kinds))
    texts: list[str] = encoded.select(pl.concat_str(pl.all())).to_series().to_list()
    return texts


def _encoded(column: str, kind: str) -> pl.Expr:
    text = pl.col(column)
    sized = pl.concat_str(pl.lit(kind), text.str.len_bytes().cast(pl.String), pl.lit(":"), text)
    return pl.when(text.is_null()).then(pl.lit(NULL)).otherwise(sized).alias(column)


def _text(column: pl.Series) -> tuple[str, pl.Series]:
    """Return a letter for the kind of value, and the values as text."""
    data_type = column.dtype
    if data_type == pl.String:
        return "s", column
    if data_type in (pl.Categorical, pl.Enum):
        return "s", column.cast(pl.String)
    if data_type.is_integer():
        return "i", column.cast(pl.String)
    if data_type.is_float():
        bits = column.cast(pl.Float64).fill_null(0.0).to_numpy() + 0.0  # in numpy, as Polars skips it: makes -0.0 plain
        bits[np.isnan(bits)] = np.nan
        text = pl.Series(bits.view(np.int64)).cast(pl.String)
        return "f", text.set(column.is_null(), None)
    if data_type == pl.Boolean:
        return "b", column.cast(pl.Int8).cast(pl.String)
    if data_type == pl.Date:
        return "d", column.to_physical().cast(pl.String)
    if isinstance(data_type, pl.Datetime):
        return "z" if data_type.time_zone else "t", column.dt.cast_time_unit("us").to_physical().cast(pl.String)
    if isinstance(data_type, pl.Duration):
        return "p", column.dt.cast_time_unit("us").to_physical().cast(pl.String)
    if data_type == pl.Time:
        return "h", column.to_physical().cast(pl.String)
    if data_type == pl.Binary:
        return "x", column.bin.encode("hex")
    if data_type.is_decimal():
        return "n", column.cast(pl.String)
    return "j", pl.Series([None if value is None else _json(value) for value in column.to_list()], dtype=pl.String)


def _json(value: object) -> str:
    """Write lists and structs as JSON. Not by orjson, which writes NaN as null."""
    return json.dumps(value, default=str, sort_keys=True)


def row_ids(rows: pl.DataFrame, key: list[str]) -> list[str]:
    """Return the identity of each row: of its key columns, else of its whole content."""
    return fingerprints(rows, key or rows.columns)
