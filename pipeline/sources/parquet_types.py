"""Types of Parquet columns over the files of a source: the widest of them, or the one that the spec gives.

Values are never changed to fit: a cast that would lose part of one is an error that names it. Only three casts give a
value another form: decimals as floats, times as days (in UTC), and anything as text.
"""

from collections.abc import Callable, Mapping, Sequence

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.sources.type_inference import Typing
from schemas.errors import SourceError
from schemas.spec.sections import ColumnType
from schemas.tables import common_type, conform, stored_type

Is = Callable[[pa.DataType], bool]
_LONGEST_VALUE = 40


def _any_of(*tests: Is) -> Is:
    return lambda kind: any(test(kind) for test in tests)


_number = _any_of(pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
_time = _any_of(pa.types.is_date, pa.types.is_timestamp)
_IS: Mapping[str, Is] = {
    "str": pa.types.is_string, "int": pa.types.is_integer, "float": pa.types.is_floating, "bool": pa.types.is_boolean,
    "date": pa.types.is_date, "datetime": pa.types.is_timestamp,
}  # fmt: skip
_FROM: Mapping[str, Is] = {
    "str": _any_of(_number, _time, pa.types.is_boolean), "int": _number, "float": _number,
    "bool": pa.types.is_boolean, "date": _time, "datetime": _time,
}  # fmt: skip
_TARGETS = {
    "str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "date": pa.date32(),
    "datetime": pa.timestamp("us"),
}  # fmt: skip


def widest(found: Sequence[pa.DataType]) -> pa.DataType | None:
    """Return the type in which values of all these types are stored, None where there is none."""
    both: pa.DataType = pa.null()
    for kind in found:
        wider = common_type(both, kind)
        if wider is None:
            return None
        both = wider
    return stored_type(both)


def given_type(name: str, column: ColumnType, found: Sequence[pa.DataType]) -> pa.DataType:
    """Return the type in which a column is read that the spec gives a type. Where the files have that kind of type
    already, it is their widest. Text alone stays text: its values are parsed later. Raises SourceError."""
    kinds = list(dict.fromkeys(stored_type(kind) for kind in found if not pa.types.is_null(kind)))
    typed = [kind for kind in kinds if not pa.types.is_string(kind)]
    if not typed:
        return pa.string()
    for kind in typed:
        if not _IS[column.type](kind) and not _FROM[column.type](kind):
            raise SourceError(
                f"source.columns.{name} = {column.type}: the files have {kind}, which cannot be read as {column.type}.",
                hint="Give it another type, or remove it from source.columns.",
            )
    if len(typed) == len(kinds) and all(_IS[column.type](kind) for kind in typed):
        both = widest(typed)
        if both is not None:
            return both
    if column.type == "datetime" and any(pa.types.is_timestamp(kind) and kind.tz for kind in typed):
        if any(pa.types.is_timestamp(kind) and not kind.tz for kind in typed):
            raise SourceError(
                f"source.columns.{name} = datetime: some files have times with a zone, others without one.",
                hint="Write the files with one of them.",
            )
        return pa.timestamp("us", "UTC")
    return _TARGETS[column.type]


def in_types(table: pa.Table, schema: pa.Schema, columns: Mapping[str, ColumnType], file: str) -> pa.Table:
    """Return a file's rows in these columns and types. Raises SourceError with the first value that does not fit."""
    for field in schema:
        if field.name not in table.column_names or field.name not in columns:
            continue
        kind = stored_type(table.column(field.name).type)
        if pa.types.is_string(kind) and not pa.types.is_string(field.type):
            parsed = _parsed(table.column(field.name), field, columns[field.name])
            table = table.set_column(table.column_names.index(field.name), field.name, parsed)
    try:
        return conform(table, schema)
    except pa.ArrowInvalid:
        misfits = ((field, value) for field in schema if (value := _first_misfit(table, field)) is not None)
        found = next(misfits, None)
        if found is None:
            raise
        (field, value) = found
        raise SourceError(
            f"{file}: column {field.name!r}: {value} is no {field.type}, the type in which the column is read.",
            hint=f"Correct the value, or set a type that holds all: source.columns: {{{field.name}: str}}.",
        ) from None


def _parsed(values: pa.ChunkedArray, field: pa.Field, column: ColumnType) -> pa.ChunkedArray:
    """Parse the text of a file where other files have values of a type. Raises SourceError."""
    kind = "datetime_zone" if pa.types.is_timestamp(field.type) and field.type.tz else column.type
    formats = {field.name: column.format} if column.format else {}
    frame = pl.DataFrame(pa.table([values], names=[field.name]))
    return Typing({field.name: kind}, formats).cast(frame).to_arrow().column(0)


def _first_misfit(table: pa.Table, field: pa.Field) -> str | None:
    """Return the first value that cannot be cast to the field's type, as text; None if all can."""
    if field.name not in table.column_names:
        return None
    values = table.column(field.name)

    def fits(rows: int) -> bool:
        try:
            pc.cast(values.slice(0, rows), options=pc.CastOptions(field.type, allow_time_truncate=True))
        except pa.ArrowInvalid:
            return False
        return True

    if fits(len(values)):
        return None
    low, high = 0, len(values)  # the first `low` rows fit, the first `high` do not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return str(values[low].as_py())[:_LONGEST_VALUE]
