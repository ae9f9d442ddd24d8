"""Rows in which two generations of a partition differ: by key, or by their source columns where the source has no key.

Both are read a slice at a time. In memory are hashes: eight bytes for the identity and for each compared cell.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from pipeline.outputs.reader import CommittedPart, ReaderSchema, parts_of, reader_schema, window
from pipeline.outputs.row_pages import SLICE, Place, as_text, gather
from pipeline.sinks import generations
from pipeline.stores import Store
from schemas.arrow_tables import empty_frame
from schemas.manifest import Manifest

_PART, _ROW, _NUMBER, _ID = "\0part", "\0row", "\0number", "\0id"
_BEFORE = "\0before"


@dataclass(frozen=True)
class ChangedRow:
    """A row that differs. `before` is its place in the earlier generation, None for a new row."""

    now: Place
    before: Place | None
    columns: tuple[str, ...]


@dataclass(frozen=True)
class ChangedRows:
    """The differences of the `current` generation of a partition from the `earlier` one. `removed` counts rows that
    only the earlier one has."""

    current: Manifest
    earlier: Manifest
    shape: ReaderSchema
    earlier_shape: ReaderSchema
    rows: tuple[ChangedRow, ...]
    removed: int

    def values(self, rows: Sequence[ChangedRow]) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return the present rows, and the earlier ones of those that have one, in order."""
        before = [row.before for row in rows if row.before is not None]
        return gather([row.now for row in rows], self.shape), gather(before, self.earlier_shape)


def earlier_generation(store: Store, manifest: Manifest) -> Manifest | None:
    """Return the generation before with other files, if these are still in history."""
    found = next(iter(generations.earlier(store, manifest, 1)), None)
    if found is None or any(generations.locate(store, file.key) is None for file in found.files):
        return None
    return found


def changed_rows(store: Store, current: Manifest, earlier: Manifest, key: Sequence[str]) -> ChangedRows:
    """Compare two generations of a partition. `key`: the columns that identify a row, empty for a source without.
    Raises GenerationSuperseded, StoreError."""
    shape, earlier_shape = reader_schema(store, [current]), reader_schema(store, [earlier])
    common = [name for name in shape.schema.names if name in earlier_shape.schema.names]
    identity = [name for name in (key or current.input_columns) if name in common] or common
    compared = [name for name in shape.schema.names if name not in identity]
    now_parts, before_parts = parts_of(store, current), parts_of(store, earlier)
    now = _hashed(now_parts, shape, identity, compared)
    before = _hashed(before_parts, earlier_shape, identity, [name for name in compared if name in common])
    joined = now.join(before, on=[_ID, _NUMBER], how="left", suffix=_BEFORE)
    differs = {
        name: pl.col(name) != pl.col(f"{name}{_BEFORE}")
        if name in common
        else pl.col(f"{_PART}{_BEFORE}").is_not_null()
        for name in compared
    }
    is_new = pl.col(f"{_PART}{_BEFORE}").is_null()
    changed = joined.with_columns(expression.alias(name) for name, expression in differs.items())
    changed = changed.filter(is_new | pl.any_horizontal([pl.col(name) for name in compared] or [pl.lit(value=False)]))
    rows = tuple(_row(line, compared, now_parts, before_parts) for line in changed.sort(_PART, _ROW).to_dicts())
    removed = before.join(now, on=[_ID, _NUMBER], how="anti").height
    return ChangedRows(current, earlier, shape, earlier_shape, rows, removed)


def _row(
    line: dict[str, Any], compared: Sequence[str], now: Sequence[CommittedPart], before: Sequence[CommittedPart]
) -> ChangedRow:
    place = Place(now[line[_PART]], line[_ROW])
    number = line[f"{_PART}{_BEFORE}"]
    if number is None:
        return ChangedRow(place, None, ())
    columns = tuple(name for name in compared if line[name])
    return ChangedRow(place, Place(before[number], line[f"{_ROW}{_BEFORE}"]), columns)


def _hashed(
    parts: Sequence[CommittedPart], shape: ReaderSchema, identity: Sequence[str], compared: Sequence[str]
) -> pl.DataFrame:
    """Return place, hash of identity with its number among equal ones, and the hash of each compared cell."""
    types = empty_frame(shape.schema).schema
    columns = [*identity, *compared]
    frames = [_empty(compared)]
    for number, part in enumerate(parts):
        for start in range(0, part.rows, SLICE):
            rows = window(part, shape, start, SLICE, columns)
            texts = rows.with_row_index(_ROW, offset=start).with_columns(as_text(name, types[name]) for name in columns)
            frames.append(
                texts.select(
                    pl.lit(number, dtype=pl.UInt32).alias(_PART),
                    pl.col(_ROW),
                    pl.struct(identity).hash().alias(_ID),
                    *(pl.col(name).hash() for name in compared),
                )
            )
    return pl.concat(frames).with_columns(pl.int_range(pl.len()).over(_ID).alias(_NUMBER))


def _empty(compared: Sequence[str]) -> pl.DataFrame:
    schema = {_PART: pl.UInt32, _ROW: pl.UInt32, _ID: pl.UInt64} | dict.fromkeys(compared, pl.UInt64)
    return pl.DataFrame(schema=schema)
