"""Partition keys of rows. Pure: computed from a frame's values, or from a file's path.

A key is made of the value as readers will see it in the path. Every row is in exactly one partition.
"""

from collections.abc import Iterable
from urllib.parse import unquote

import polars as pl
import pyarrow as pa

from schemas.errors import SourceError
from schemas.partition_keys import EMPTY_BEFORE, NULL, decode_value, encode_value, partition_key
from schemas.spec.sections import Partition

_FORMATS = {"hour": "%Y-%m-%dT%HZ", "day": "%Y-%m-%d", "week": "%G-W%V", "month": "%Y-%m"}


def key_name(partition: Partition, columns: Iterable[str]) -> str:
    """Return the name before `=`. A name that collides with a column gets `_key` appended; by column it is the column,
    and by hive each level has its own."""
    if partition.by in ("column", "hive"):
        return partition.column or ""
    name = {"time": partition.every, "files": "file", "rows": "block"}[partition.by]
    used = set(columns)
    while name in used:
        name += "_key"
    return name


def check_partition_column(partition: Partition, columns: pa.Schema) -> None:
    """Raise SourceError if the column is absent or has a type that cannot be partitioned by."""
    if partition.column is None:
        return
    if partition.column not in columns.names:
        raise SourceError(
            f"partition.column = {partition.column!r}: no such column.", hint=f"Columns: {', '.join(columns.names)}"
        )
    kind = columns.field(partition.column).type
    if partition.by == "time":
        supported = pa.types.is_timestamp(kind) or (pa.types.is_date(kind) and partition.every != "hour")
        if not supported:
            raise SourceError(
                f"partition.column = {partition.column!r} is {_type_name(kind)}; by: time needs "
                + ("a datetime." if partition.every == "hour" else "a date or a datetime."),
                hint=f"Set its format: source.columns: {{{partition.column}: {{type: datetime, format: …}}}}.",
            )
    elif not any(fits(kind) for fits in _VALUES):
        raise SourceError(
            f"partition.column = {partition.column!r} is {_type_name(kind)}; by: column needs text, int, bool or date."
        )


_VALUES = (
    pa.types.is_string,
    pa.types.is_integer,
    pa.types.is_boolean,
    pa.types.is_date,
    pa.types.is_timestamp,
    pa.types.is_decimal,
)


def _type_name(kind: pa.DataType) -> str:
    return "text" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else str(kind)


def keys_of(values: pl.Series, partition: Partition, name: str, *, start: int = 0, file: str = "") -> pl.Series:
    """Return the partition key of each value (by time or column); the values are a file's from row `start`. Raises
    SourceError for a null unless `nulls: own`."""
    if values.null_count() and partition.nulls == "error":
        row = start + int(values.is_null().arg_max() or 0) + 1
        raise SourceError(
            f"partition.column = {values.name!r} is null in {values.null_count():,} row(s), first in row {row:,} of "
            f"{file or 'the source'}, a header not counted.",
            hint="Correct the rows, or set partition.nulls: own to give them a partition of their own.",
        )
    try:
        labels = _time_labels(values, partition) if partition.by == "time" else _column_labels(values)
    except pl.exceptions.ComputeError as exc:
        raise SourceError(f"partition.zone = {partition.zone!r}: {exc}.", hint="Write one like Europe/Paris.") from None
    different = labels.unique().to_list()
    if partition.by == "column":  # its values are in the path only
        cut = next((label for label in different if label and decode_value(encode_value(label)) != label), None)
        if cut is not None:
            raise SourceError(
                f"partition.column = {values.name!r}: {cut[:40]!r}… is too long for a folder's name.",
                hint="Partition by another column, or by: rows.",
            )
    keys = {label: partition_key([(name, label)]) for label in different}
    return labels.replace_strict(list(keys), list(keys.values()), return_dtype=pl.String).alias("key")


def _time_labels(values: pl.Series, partition: Partition) -> pl.Series:
    data_type = values.dtype
    if data_type == pl.Date:
        return values.dt.strftime(_FORMATS[partition.every])
    assert isinstance(data_type, pl.Datetime)
    if partition.every == "hour":  # in UTC, so that no hour repeats when clocks go back
        instants = values.dt.convert_time_zone("UTC") if data_type.time_zone else _localised(values, partition.zone)
        return instants.dt.convert_time_zone("UTC").dt.strftime(_FORMATS["hour"])
    local = values.dt.convert_time_zone(partition.zone) if data_type.time_zone else values
    return local.dt.strftime(_FORMATS[partition.every])


def _localised(values: pl.Series, zone: str) -> pl.Series:
    """Localise naive times: of an hour that happens twice the first is used; one that never happens is read by the
    clock before the change (which skipped a whole day where a zone crossed the date line)."""

    def read(back: pl.Expr) -> pl.Expr:
        return (pl.col("v") - back).dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null") + back

    steps = [pl.duration(hours=hours) for hours in (0, 1, 25)]
    return values.to_frame("v").select(pl.coalesce(read(back) for back in steps)).to_series()


def _column_labels(values: pl.Series) -> pl.Series:
    if isinstance(values.dtype, pl.Datetime):
        return values.dt.strftime("%Y-%m-%dT%H:%M:%S%.f")
    if values.dtype == pl.Date:
        return values.dt.strftime("%Y-%m-%d")
    if values.dtype == pl.Boolean:
        return values.cast(pl.Int8).replace_strict([0, 1], ["false", "true"], return_dtype=pl.String)
    return values.cast(pl.String)


def hive_levels(relative: str) -> list[tuple[str, str | None]]:
    """The `key=value` folders of a path. Raises SourceError where there is none."""
    levels: list[tuple[str, str | None]] = []
    for part in relative.split("/")[:-1]:
        name, separator, value = part.partition("=")
        if separator and name:
            levels.append((unquote(name), _hive_value(value)))
    if not levels:
        raise SourceError(
            f"partition.by = 'hive': {relative!r} lies in no key=value folder.",
            hint="Use by: files, or point source.path at the folder above the key=value folders.",
        )
    for name, found in levels:
        if found and decode_value(encode_value(found)) != found:
            raise SourceError(f"partition.by = 'hive': the value of {name!r} is too long for a path: {found[:40]!r}….")
    return levels


def _hive_value(written: str) -> str | None:
    if written == NULL:
        return None
    return "" if written == EMPTY_BEFORE else unquote(written)
