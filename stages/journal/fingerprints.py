"""Fingerprints of rows: 128-bit digests of chosen columns' values, the same in every process and version of Polars.

Each value is written as `<kind><length>:<bytes>`, so that neighbouring values cannot be confused, and 1, "1", 1.0 and
true differ. Temporal values go by their integer, floats by their bits, never by a library's formatting.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator

import numpy as np
import polars as pl

NULL = "-"
DIGEST_BYTES = 16
_AT_ONCE = 16_384  # rows whose texts are made at once: Polars works best on what fits into a cache


def fingerprints(frame: pl.DataFrame, columns: Iterable[str]) -> list[str]:
    """Return one hex digest (32 characters) a row over the named columns, in their sorted order."""
    names = sorted(columns)
    if not names:
        return [_salt(names).hexdigest()] * frame.height
    copy = _salt(names).copy
    out = []
    for texts in _texts_of_rows(frame, names):
        for text in texts:
            state = copy()
            state.update(text)
            out.append(state.hexdigest())
    return out


def digests(frame: pl.DataFrame, columns: Iterable[str]) -> bytes:
    """Return what `fingerprints` does, 16 bytes a row, one after the other."""
    names = sorted(columns)
    if not names:
        return _salt(names).digest() * frame.height
    copy = _salt(names).copy
    parts = []
    for texts in _texts_of_rows(frame, names):
        out = []
        for text in texts:
            state = copy()
            state.update(text)
            out.append(state.digest())
        parts.append(b"".join(out))
    return b"".join(parts)


def _salt(names: list[str]) -> "hashlib.blake2b":
    return hashlib.blake2b("\0".join(names).encode(), digest_size=DIGEST_BYTES)


def _texts_of_rows(frame: pl.DataFrame, names: list[str]) -> Iterator[list[bytes]]:
    for start in range(0, frame.height, _AT_ONCE):
        yield row_texts(frame[start : start + _AT_ONCE], names).cast(pl.Binary).to_list()


def row_texts(frame: pl.DataFrame, columns: Iterable[str], end: str = "") -> pl.Series:
    """Return the named columns' values of each row as one unambiguous text, with `end` behind it."""
    kinds, values = zip(*(_text(frame[name]) for name in columns), strict=True)
    numbered = pl.DataFrame([value.alias(f"{index}") for index, value in enumerate(values)])
    parts = [part for index, kind in enumerate(kinds) for part in _encoded(numbered[f"{index}"], kind)]
    return numbered.select(pl.concat_str(*parts, pl.lit(end))).to_series()


def _encoded(values: pl.Series, kind: str) -> list[pl.Expr]:
    """Return the parts of a column's text: fewer of one without nulls, which is the common case."""
    text = pl.col(values.name)
    sized = [pl.lit(kind), text.str.len_bytes().cast(pl.String), pl.lit(":"), text]
    if not values.null_count():
        return sized
    return [pl.when(text.is_null()).then(pl.lit(NULL)).otherwise(pl.concat_str(sized))]


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
