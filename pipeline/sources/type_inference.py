"""Column types of text sources: inferred over the whole input, never from its first rows.

Leading zeros stay text (`012` is a code, not twelve), and so do a leading `+` and integers that no float64 could hold
beside a fraction. A column takes the narrowest type that all its values fit: bool, int, float, date, datetime, else
text. Types pinned at the first publish, or given in the spec, are not guessed.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from schemas.errors import SourceError
from schemas.spec.sections import ColumnType

_CLOCK = r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?"
_PATTERNS = {
    "bool": r"^(?i:true|false)$",
    "int": r"^(0|-?[1-9][0-9]{0,17})$",
    # Integers of at most 15 digits: those are exact as floats. Exponents stay far from where a float overflows.
    "float": r"^-?((0|[1-9][0-9]{0,14})|(0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+)([eE](-[0-9]{1,3}|\+?[0-9]{1,2}))?$",
    "date": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$",
    "datetime": rf"^{_CLOCK}$",
    "datetime_zone": rf"^{_CLOCK}(Z|z| ?UTC| ?[+-][0-9]{{2}}:?[0-9]{{2}})$",
}
_DTYPES: dict[str, pl.DataType] = {
    "str": pl.String(), "int": pl.Int64(), "float": pl.Float64(), "bool": pl.Boolean(), "date": pl.Date(),
    "datetime": pl.Datetime("us"), "datetime_zone": pl.Datetime("us", "UTC"),
}  # fmt: skip
_FORMS = {kind: re.compile(pattern) for kind, pattern in _PATTERNS.items()}
_NUMBERS = ("bool", "int", "float")  # their form is all there is to them


@dataclass
class Inference:
    """The types that every value of a column so far would fit, narrowest first; `seen` where any value was not null."""

    fits: dict[str, list[str]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    def observe(self, frame: pl.DataFrame, quoted: frozenset[str] = frozenset()) -> None:
        """Take a chunk of text columns into account; `quoted` ones are text or a time, never a number."""
        if not frame.width:
            return
        texts = _numbered(frame)
        names = dict(zip(texts.columns, frame.columns, strict=True))
        left: dict[str, list[str]] = {}
        for (column, name), first in zip(
            names.items(), texts.select(pl.all().drop_nulls().first()).row(0), strict=True
        ):
            candidates = self.fits.setdefault(name, list(_PATTERNS))
            if first is not None:
                self.seen.add(name)
                kinds = [kind for kind in candidates if name not in quoted or kind not in _NUMBERS]
                left[column] = [kind for kind in kinds if _FORMS[kind].search(first)]  # most fall here
        for test in (_has_form, _has_value):
            left = _passing(texts, left, test)
        self.fits.update({names[column]: kinds for column, kinds in left.items()})

    def types(self, names: Iterable[str]) -> dict[str, str]:
        return {name: self.fits[name][0] if name in self.seen and self.fits.get(name) else "str" for name in names}


_Test = Callable[[pl.Expr, str], pl.Expr]


def _passing(frame: pl.DataFrame, candidates: Mapping[str, Sequence[str]], test: _Test) -> dict[str, list[str]]:
    """Return the candidates of each column that pass a test, in one pass over all columns, however many."""
    tests = [
        test(present, kind).alias(f"{column} {kind}")
        for column, kinds in candidates.items()
        for present in (pl.col(column).drop_nulls(),)
        for kind in kinds
    ]
    passed = frame.select(tests).row(0, named=True) if tests else {}
    return {column: [kind for kind in kinds if passed[f"{column} {kind}"]] for column, kinds in candidates.items()}


def _has_form(present: pl.Expr, kind: str) -> pl.Expr:
    return present.str.contains(_PATTERNS[kind]).all()


def _has_value(present: pl.Expr, kind: str) -> pl.Expr:
    """2026-02-30 has the form of a date and is none."""
    return pl.lit(True) if kind in _NUMBERS else _parsed(present, kind).null_count() == 0


def _numbered(frame: pl.DataFrame) -> pl.DataFrame:
    """Name the columns by their position: in expressions, Polars reads names such as `*` and `^x$` as patterns."""
    numbered = frame.clone()
    numbered.columns = [f"{index}" for index in range(frame.width)]
    return numbered


@dataclass(frozen=True)
class Typing:
    """The type of each column, and the strptime format of those that have one. Columns that are not named are left as
    they are. Values of `strict` columns, which were pinned, must be written as inference expects them."""

    types: Mapping[str, str]
    formats: Mapping[str, str]
    strict: frozenset[str] = frozenset()

    @classmethod
    def decide(
        cls,
        inferred: Mapping[str, str],
        declared: Mapping[str, ColumnType],
        pinned: Mapping[str, str],
    ) -> "Typing":
        """Choose each column's type: declared before pinned, pinned before inferred. Raises SourceError for a declared
        column that is absent."""
        absent = sorted(set(declared) - set(inferred))
        if absent:
            raise SourceError(
                f"source.columns names {absent[0]!r}, which is no column of the source.",
                hint=f"Columns: {', '.join(inferred)}",
            )
        held = {name: kind for name, kind in pinned.items() if name in inferred and name not in declared}
        types = {**inferred, **held}
        types.update(
            {name: _declared_type(column, pinned.get(name) or inferred[name]) for name, column in declared.items()},
        )
        formats = {name: column.format for name, column in declared.items() if column.format}
        strict = frozenset(name for name, kind in held.items() if kind != inferred[name])
        return cls(types, formats, strict)

    def cast(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Cast text columns to their types. Raises SourceError with column, value and type if one does not fit."""
        names = [name for name in frame.columns if self.types.get(name, "str") != "str"]
        if not names:
            return frame
        texts = frame[names]
        typed = self._parsed(texts)
        nulls = zip(names, typed.null_count().row(0), texts.null_count().row(0), strict=True)
        for name in [name for name, after, before in nulls if name in self.strict or after > before]:
            wrong = typed[name].is_null() & frame[name].is_not_null()
            if name in self.strict:
                wrong |= ~frame[name].str.contains(_PATTERNS[self.types[name]]).fill_null(True)
            if wrong.any():
                raise self._misfit(name, str(frame[name].filter(wrong)[0]))
        return frame.with_columns(typed.get_columns())

    def _parsed(self, texts: pl.DataFrame) -> pl.DataFrame:
        """Parse columns, all in one pass; what does not fit is null. Raises SourceError for an impossible format."""
        try:
            return _numbered(texts).select(
                _parsed(pl.col(f"{index}").str.strip_chars(), self.types[name], self.formats.get(name)).alias(name)
                for index, name in enumerate(texts.columns)
            )
        except pl.exceptions.PolarsError as exc:
            if texts.width > 1:  # find the one
                return pl.concat([self._parsed(texts[[name]]) for name in texts.columns], how="horizontal")
            (name,) = texts.columns
            raise SourceError(f"source.columns.{name}.format = {self.formats.get(name)!r}: {exc}.") from None

    def _misfit(self, name: str, value: str) -> SourceError:
        kind, format_text = self.types[name].removesuffix("_zone"), self.formats.get(name)
        form = f" with format {format_text!r}" if format_text else ""
        if name in self.strict:
            form = f", which this column was when it was first published{', in this form' if kind != 'str' else ''}"
        elif self.types[name] == "datetime_zone" and not format_text:
            form = " with an offset, as others of the column have"
        elif kind == "datetime" and not format_text:
            form = " without an offset, written as 2026-11-01T05:00:00"
        return SourceError(
            f"column {name!r}: {value!r} is no {kind}{form}.",
            hint=f"Correct the value, or set source.columns: {{{name}: str}}.",
        )


def _declared_type(column: ColumnType, otherwise: str) -> str:
    """Return the type of a declared column. A datetime has a zone if its format or all its values have one."""
    if column.type != "datetime":
        return column.type
    if column.format:
        return "datetime_zone" if "%z" in column.format or "%:z" in column.format else "datetime"
    return otherwise if otherwise == "datetime_zone" else "datetime"


# Parsing: what does not fit becomes null ---------------------------------------------------------------------------


def _parsed(text: pl.Expr, kind: str, form: str | None = None) -> pl.Expr:
    if form is not None and kind == "date":
        return text.str.to_date(form, strict=False)
    if form is not None and kind in ("datetime", "datetime_zone"):
        return text.str.to_datetime(
            form, strict=False, time_unit="us", time_zone="UTC" if kind == "datetime_zone" else None
        )
    if kind == "bool":
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        return text.str.to_lowercase().replace_strict(words, default=None, return_dtype=pl.Boolean)
    if kind == "date":
        return text.str.extract(r"^([0-9]{4}-[0-9]{2}-[0-9]{2})(?:$|[T ][0-9]{2}:)").str.to_date(
            "%Y-%m-%d", strict=False
        )
    if kind == "datetime":
        return _clock(text).str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", strict=False, time_unit="us")
    if kind == "datetime_zone":
        offsets = text.str.replace(r" ?(Z|z|UTC)$", "+00:00").str.replace(r" ?([+-][0-9]{2}):?([0-9]{2})$", "${1}:${2}")
        return _clock(offsets).str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", strict=False, time_unit="us", time_zone="UTC")
    typed = text.cast(_DTYPES[kind], strict=False)
    if kind == "float":  # 1e999 is no number; inf and nan may be written as such
        overflow = typed.is_infinite() & ~text.str.contains("(?i)inf")
        typed = pl.when(overflow).then(None).otherwise(typed)
    return typed


def _clock(text: pl.Expr) -> pl.Expr:
    """Rewrite as ISO 8601 with a T, and with seconds; a date alone is its midnight."""
    whole = text.str.replace(r"^([0-9]{4}-[0-9]{2}-[0-9]{2})$", "${1}T00:00:00").str.replace("^(.{10}) ", "${1}T")
    return whole.str.replace(r"^(.{13}:[0-9]{2})($|[^:0-9.])", "${1}:00${2}")
