"""A page of a dataset's rows: some partitions or all, filtered and sorted, read as little as the page needs.

Without filter and order only the files of the page are read, by the counts of manifests. A filter reads its columns
until the page is full, for a limited time; an order reads its column of every row, and then the rows of the page.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
import polars as pl

from pipeline.outputs.reader import CommittedPart, ReaderSchema, parts_of, reader_schema, window
from pipeline.sinks import commits
from pipeline.stores import Store
from schemas.arrow_tables import empty_frame
from schemas.errors import UsageError
from schemas.manifest import Manifest

SLICE = 50_000  # rows held at once while searching
_MOST_SORTED = 500  # partitions
_PATIENCE_S = 10.0
Operator = Literal["is", "not", "contains", "least", "most", "empty"]
_PART, _ROW, _VALUE = "\0part", "\0row", "\0value"


@dataclass(frozen=True)
class Filter:
    """A condition on the text of a column's values; `least` and `most` compare numbers and times. `column` "*": any."""

    column: str
    operator: Operator
    value: str = ""


@dataclass(frozen=True)
class Order:
    """Rows by a column, nulls last."""

    column: str
    descending: bool = False


@dataclass(frozen=True)
class Place:
    """A row of a committed file: its number there."""

    part: CommittedPart
    row: int


@dataclass(frozen=True)
class RowPage:
    """The rows of a page, with the place of each. `total` is known without a filter, or once all rows were searched;
    `searched` of the `of` rows were."""

    rows: pl.DataFrame
    places: tuple[Place, ...]
    more: bool
    total: int | None
    searched: int
    of: int


def read_page(
    store: Store,
    manifests: Sequence[Manifest],
    *,
    offset: int,
    limit: int,
    filters: Sequence[Filter] = (),
    order: Order | None = None,
) -> RowPage:
    """Return `limit` rows from the number `offset` on. `manifests` are of current generations, as lists have them.
    Raises UsageError for an unknown column, or for too many partitions to sort; GenerationSuperseded, StoreError."""
    found = [manifest for manifest in manifests if manifest.counts.out]
    of = sum(manifest.counts.out for manifest in found)
    shape = reader_schema(store, found) if found else None
    if shape is None:
        return RowPage(pl.DataFrame(), (), more=False, total=0, searched=0, of=0)
    _check(shape, filters, order)
    if order is not None:
        return _sorted(store, found, shape, filters, order, offset, limit, of)
    if filters:
        return _filtered(store, found, shape, filters, offset, limit, of)
    places = _window(store, found, offset, limit)
    return RowPage(gather(places, shape), tuple(places), more=offset + limit < of, total=of, searched=of, of=of)


def gather(places: Sequence[Place], shape: ReaderSchema) -> pl.DataFrame:
    """Read the rows of some places, in their order."""
    runs: list[tuple[CommittedPart, int, int]] = []
    for place in places:
        if runs and runs[-1][0] == place.part and runs[-1][1] + runs[-1][2] == place.row:
            runs[-1] = (place.part, runs[-1][1], runs[-1][2] + 1)
        else:
            runs.append((place.part, place.row, 1))
    frames = [window(part, shape, start, rows) for part, start, rows in runs]
    return pl.concat(frames) if frames else empty_frame(shape.schema)


def parts(store: Store, manifests: Sequence[Manifest]) -> Iterator[CommittedPart]:
    """Yield the files of partitions, whose manifests are read whole one by one."""
    for listed in manifests:
        manifest = commits.read_commit(store, listed.partition, listed.generation)
        yield from parts_of(store, manifest) if manifest is not None else ()


def _window(store: Store, manifests: Sequence[Manifest], offset: int, limit: int) -> list[Place]:
    places: list[Place] = []
    for manifest in manifests:
        if len(places) == limit:
            break
        if offset >= manifest.counts.out:
            offset -= manifest.counts.out
            continue
        for part in parts(store, [manifest]):
            numbers = range(min(offset, part.rows), min(part.rows, offset + limit - len(places)))
            places += [Place(part, number) for number in numbers]
            offset = max(0, offset - part.rows)
    return places


def _filtered(
    store: Store, manifests: Sequence[Manifest], shape: ReaderSchema, filters: Sequence[Filter], offset: int,
    limit: int, of: int,
) -> RowPage:  # fmt: skip
    condition, columns = _condition(shape, filters)
    until = time.monotonic() + _PATIENCE_S
    places: list[Place] = []
    skipped = searched = 0
    for part in parts(store, manifests):
        for start in range(0, part.rows, SLICE):
            rows = window(part, shape, start, SLICE, columns)
            matches = rows.with_row_index(_ROW).filter(condition)[_ROW].to_list()
            searched += rows.height
            first = min(len(matches), max(0, offset - skipped))
            skipped += first
            places += [Place(part, start + number) for number in matches[first:]]
            if len(places) > limit or time.monotonic() > until:
                break
        else:
            continue
        break
    whole = searched == of
    total = offset + len(places) if whole and (places or not offset) else None
    page = places[:limit]
    return RowPage(gather(page, shape), tuple(page), len(places) > limit, total, searched, of)


def _sorted(
    store: Store, manifests: Sequence[Manifest], shape: ReaderSchema, filters: Sequence[Filter], order: Order,
    offset: int, limit: int, of: int,
) -> RowPage:  # fmt: skip
    if len(manifests) > _MOST_SORTED:
        raise UsageError(
            f"Sorting reads every file, and {len(manifests):,} partitions are too many at once.",
            hint=f"Choose a partition, or narrow them to {_MOST_SORTED:,}.",
        )
    condition, columns = _condition(shape, filters)
    listed: list[CommittedPart] = []
    found: list[pl.DataFrame] = []
    for part in parts(store, manifests):
        listed.append(part)
        for start in range(0, part.rows, SLICE):
            rows = window(part, shape, start, SLICE, list(dict.fromkeys([*columns, order.column])))
            kept = rows.with_row_index(_ROW, offset=start).filter(condition)
            place = pl.lit(len(listed) - 1, dtype=pl.UInt32).alias(_PART)
            found.append(kept.select(_sortable(shape, order.column), place, pl.col(_ROW)))
    ranked = pl.concat(found).sort(
        _VALUE, _PART, _ROW, descending=[order.descending, False, False], nulls_last=True, maintain_order=True
    )
    page = ranked.slice(offset, limit)
    places = [Place(listed[part], row) for part, row in page.select(_PART, _ROW).iter_rows()]
    more = offset + limit < ranked.height
    return RowPage(gather(places, shape), tuple(places), more, ranked.height, of, of)


# Columns -------------------------------------------------------------------------------------------------------------


def _check(shape: ReaderSchema, filters: Sequence[Filter], order: Order | None) -> None:
    names = shape.schema.names
    for column in [*(one.column for one in filters), *([order.column] if order else [])]:
        if column != "*" and column not in names:
            raise UsageError(f"There is no column {column!r}.", hint=f"Columns: {', '.join(names)}")


def _condition(shape: ReaderSchema, filters: Sequence[Filter]) -> tuple[pl.Expr, list[str]]:
    """Return the condition, and the columns that it reads: at least one, so that rows can be counted."""
    types = empty_frame(shape.schema).schema
    condition = pl.lit(value=True)
    columns: list[str] = []
    for one in filters:
        names = list(types) if one.column == "*" else [one.column]
        columns += names
        condition &= pl.any_horizontal(_one(name, types[name], one) for name in names)
    return condition, list(dict.fromkeys(columns)) or [next(iter(types))]


def _one(name: str, data_type: pl.DataType, wanted: Filter) -> pl.Expr:
    column = pl.col(name)
    match wanted.operator:
        case "empty":
            return column.is_null() | (as_text(name, data_type) == "")
        case "contains":
            lowered = as_text(name, data_type).str.to_lowercase()
            return lowered.str.contains(wanted.value.lower(), literal=True).fill_null(value=False)
        case "is":
            return (as_text(name, data_type) == wanted.value).fill_null(value=False)
        case "not":
            return (as_text(name, data_type) != wanted.value).fill_null(value=True)
    bound = _bound(name, data_type, wanted.value)
    return (column >= bound if wanted.operator == "least" else column <= bound).fill_null(value=False)


def _bound(name: str, data_type: pl.DataType, value: str) -> pl.Expr:
    """Return the value in the column's type. Raises UsageError."""
    if data_type == pl.String:
        return pl.lit(value)
    try:
        if data_type.is_numeric():
            return pl.lit(float(value))
        if data_type.is_temporal():
            return pl.lit(pl.Series([value]).str.to_datetime(strict=True, time_zone="UTC")[0]).cast(data_type)
    except (ValueError, pl.exceptions.PolarsError):
        pass
    raise UsageError(f"{value!r} cannot be compared with {name!r}, which is of type {data_type}.")


def as_text(name: str, data_type: pl.DataType) -> pl.Expr:
    """Return a column as the text that a page shows of it: nested values as JSON."""
    column = pl.col(name)
    if data_type == pl.String:
        return column
    if data_type.is_nested():
        return column.map_elements(_json, return_dtype=pl.String)
    if isinstance(data_type, pl.Datetime):
        return column.dt.strftime("%Y-%m-%d %H:%M:%S%.f")
    if isinstance(data_type, pl.Duration):
        return column.dt.to_string("iso")
    if data_type == pl.Binary:
        return column.bin.encode("hex")
    return column.cast(pl.String)


def _json(value: Any) -> str:
    plain = value.to_list() if isinstance(value, pl.Series) else value
    return orjson.dumps(plain, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _sortable(shape: ReaderSchema, name: str) -> pl.Expr:
    data_type = empty_frame(shape.schema).schema[name]
    column = as_text(name, data_type) if data_type.is_nested() else pl.col(name)
    return column.alias(_VALUE)
