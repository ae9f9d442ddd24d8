"""How people write dates, and which of these ways a column of texts is written in. ISO 8601 needs no telling."""

import datetime as dt

import polars as pl

_LEAST, _MOST = 6, 40  # characters
_ENOUGH = 50  # values; most ways fail on the first
_YEARS = (dt.datetime.fromisoformat("1000-01-01"), dt.datetime.fromisoformat("2500-01-01"))
# %B takes short names of months too, %A those of weekdays, %d and %m one digit.
_DAYS = (
    "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%m.%d.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y/%d/%m", "%Y.%m.%d",
    "%d/%m/%y", "%m/%d/%y", "%d.%m.%y", "%d-%m-%y", "%m-%d-%y", "%y/%m/%d",
    "%d %m %Y", "%Y %m %d", "%d %B %Y", "%d %B %y", "%d %B, %Y", "%d. %B %Y", "%B %d %Y", "%B %d, %Y", "%B. %d, %Y",
    "%Y %B %d", "%d-%B-%Y", "%d-%B-%y", "%Y-%B-%d", "%B-%d-%Y", "%d/%B/%Y", "%d%B%Y",
    "%A %d %B %Y", "%A, %d %B %Y", "%A %B %d %Y", "%A, %B %d, %Y",
)  # fmt: skip
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S%.f", " %I:%M %p", " %I:%M:%S %p", ", %H:%M", ", %I:%M %p", "T%H:%M:%S")
_WHOLE = ("%A %B %d %H:%M:%S %Y", "%d/%B/%Y:%H:%M:%S", "%H:%M %d/%m/%Y", "%H:%M:%S %d/%m/%Y")
_WAYS = (*(day + clock for clock in _CLOCKS for day in _DAYS), *_WHOLE)


def formats_of(values: pl.Series) -> list[str]:
    """The ways of writing dates (strptime's) that fit every text that is there, one of those that read all alike. None
    where there is no text, several where nobody can tell the day from the month."""
    there = values.drop_nulls()
    if not there.len() or not (there.str.contains(r"\d") & there.str.len_chars().is_between(_LEAST, _MOST)).all():
        return []
    first = there.head(_ENOUGH)
    found: list[tuple[str, pl.Series]] = []
    for way in _WAYS:
        if _read(first, way) is None or (read := _read(there, way)) is None:
            continue
        if not any(read.equals(other) for _, other in found):
            found.append((way, read))
    return [way for way, _ in found]


def _read(texts: pl.Series, way: str) -> pl.Series | None:
    try:
        read = texts.str.to_datetime(way, strict=False, time_unit="us")
    except pl.exceptions.PolarsError:
        return None
    return read if not read.null_count() and read.is_between(*_YEARS).all() else None
