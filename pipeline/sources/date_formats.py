"""Formats in which people write dates, and detection of those that fit a column of texts. ISO 8601 needs no format."""

import datetime as dt

import polars as pl

_LEAST, _MOST = 6, 40  # characters
_ENOUGH = 50  # values; most formats fail on the first
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
_FORMATS = (*(day + clock for clock in _CLOCKS for day in _DAYS), *_WHOLE)


def formats_of(values: pl.Series) -> list[str]:
    """Return the date formats (strptime's) that fit every text; of formats that read all texts alike, only the first.
    Empty if there is no text, several if the day cannot be told from the month."""
    present = values.drop_nulls()
    if not present.len() or not (present.str.contains(r"\d") & present.str.len_chars().is_between(_LEAST, _MOST)).all():
        return []
    first = present.head(_ENOUGH)
    found: list[tuple[str, pl.Series]] = []
    for format_text in _FORMATS:
        if _read(first, format_text) is None or (read := _read(present, format_text)) is None:
            continue
        if not any(read.equals(other) for _, other in found):
            found.append((format_text, read))
    return [format_text for format_text, _ in found]


def _read(texts: pl.Series, format_text: str) -> pl.Series | None:
    try:
        read = texts.str.to_datetime(format_text, strict=False, time_unit="us")
    except pl.exceptions.PolarsError:
        return None
    return read if not read.null_count() and read.is_between(*_YEARS).all() else None
