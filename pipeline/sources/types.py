"""Column types of text sources: inferred over the whole input, never from its first rows.

Leading zeros stay text (`012` is a code, not twelve). A column takes the narrowest type that all its values fit: bool,
int, float, date, datetime, else text. Types pinned at the first publish, or given in the spec, are not guessed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import polars as pl

from schemas.errors import SourceError
from schemas.spec import ColumnType

_PATTERNS = {
    "bool": r"^(?i:true|false)$",
    "int": r"^[-+]?(0|[1-9][0-9]{0,17})$",
    "float": r"^[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?$",
    "date": r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$",
    "datetime": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?$",
    "datetime_zone": (
        r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?"
        r"(Z|z| ?UTC| ?[+-][0-9]{2}:?[0-9]{2})$"
    ),
}
_DTYPES: dict[str, pl.DataType] = {
    "str": pl.String(), "int": pl.Int64(), "float": pl.Float64(), "bool": pl.Boolean(), "date": pl.Date(),
    "datetime": pl.Datetime("us"), "datetime_zone": pl.Datetime("us", "UTC"),
}  # fmt: skip


@dataclass
class Inference:
    """The types that every value of a column so far would fit, narrowest first; `seen` where any value was not null."""

    fits: dict[str, list[str]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    def observe(self, frame: pl.DataFrame, quoted: frozenset[str] = frozenset()) -> None:
        """Take a chunk of text columns into account; `quoted` ones are text or a time, never a number."""
        for name in frame.columns:
            candidates = self.fits.setdefault(name, list(_PATTERNS))
            if name in quoted:
                candidates = [c for c in candidates if c not in ("bool", "int", "float")]
            column = frame[name]
            if column.null_count() == column.len():
                continue
            self.seen.add(name)
            self.fits[name] = [c for c in candidates if column.str.contains(_PATTERNS[c]).all()]

    def types(self, names: Iterable[str]) -> dict[str, str]:
        return {name: self.fits[name][0] if name in self.seen and self.fits.get(name) else "str" for name in names}


@dataclass(frozen=True)
class Typing:
    """The type of each column, and the strptime format of those that were given one. `zone` is taken for naive text
    that fills a datetime column with a zone."""

    types: Mapping[str, str]
    formats: Mapping[str, str]

    @classmethod
    def decide(
        cls,
        inferred: Mapping[str, str],
        given: Mapping[str, ColumnType],
        pinned: Mapping[str, str],
    ) -> "Typing":
        """Given types win over pinned ones, pinned ones over inferred. Raises SourceError for a given column that is
        not there."""
        absent = sorted(set(given) - set(inferred))
        if absent:
            raise SourceError(
                f"source.columns names {absent[0]!r}, which is no column of the source.",
                hint=f"Columns: {', '.join(inferred)}",
            )
        types = dict(inferred)
        types.update({name: kind for name, kind in pinned.items() if name in types})
        types.update({name: column.type for name, column in given.items()})
        return cls(types, {name: column.format for name, column in given.items() if column.format})

    def cast(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Text columns as their types. Raises SourceError that names column, value and type where one does not fit."""
        return frame.with_columns(self._cast(frame[name]) for name in frame.columns)

    def _cast(self, column: pl.Series) -> pl.Series:
        kind = self.types[column.name]
        if kind == "str":
            return column
        typed = self._parsed(column, kind)
        bad = column.filter(typed.is_null() & column.is_not_null())
        if bad.len():
            shape = f" with format {self.formats[column.name]!r}" if column.name in self.formats else ""
            raise SourceError(
                f"column {column.name!r}: {bad[0]!r} is no {kind.removesuffix('_zone')}{shape}.",
                hint=f"Mend the value, or say source.columns: {{{column.name}: str}}.",
            )
        return typed.alias(column.name)

    def _parsed(self, column: pl.Series, kind: str) -> pl.Series:
        text = column.str.strip_chars()
        given = self.formats.get(column.name)
        if given is not None and kind in ("date", "datetime"):
            if kind == "date":
                return text.str.to_date(given, strict=False)
            return text.str.to_datetime(given, strict=False, time_unit="us", time_zone="UTC" if "%z" in given else None)
        if kind == "bool":
            lower = text.str.to_lowercase()
            return pl.DataFrame({"v": lower}).select(
                pl.when(pl.col("v").is_in(["true", "1", "yes"]))
                .then(True)
                .when(pl.col("v").is_in(["false", "0", "no"]))
                .then(False)
            )["literal"]
        if kind == "date":
            return text.str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False)
        if kind in ("datetime", "datetime_zone"):
            return _datetimes(text, zoned=kind == "datetime_zone" or _zoned(text))
        return text.cast(_DTYPES[kind], strict=False)


def _zoned(text: pl.Series) -> bool:
    present = text.drop_nulls()
    return bool(present.len()) and bool(present.str.contains(_PATTERNS["datetime_zone"]).all())


def _datetimes(text: pl.Series, *, zoned: bool) -> pl.Series:
    """ISO 8601 as microseconds; offsets are converted to UTC."""
    plain = text.str.replace("^(.{10}) ", "${1}T").str.replace(r"^(.{13}:\d{2})($|[^:0-9.])", "${1}:00${2}")
    if not zoned:
        return plain.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", strict=False, time_unit="us")
    offsets = plain.str.replace(r" ?(Z|z|UTC)$", "+00:00").str.replace(r" ?([+-]\d{2}):?(\d{2})$", "${1}:${2}")
    return offsets.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", strict=False, time_unit="us", time_zone="UTC")
