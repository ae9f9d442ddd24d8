"""What a table looks like to `tandem init`: key, dates, text columns."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from pipeline.sources.listing import list_source
from pipeline.sources.split import snapshot_of
from pipeline.stores import MemoryStore
from schemas.errors import SourceError
from schemas.spec.sections import Sink, Source, Spec, Stage

_SAMPLE_ROWS = 20_000


# How people write days, and what their clocks add; ISO needs no telling.
_DAYS = ("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%Y/%m/%d", "%d/%m/%y", "%m/%d/%y", "%d %B %Y", "%d %b %Y")
_CLOCKS = ("", " %H:%M", " %H:%M:%S")


@dataclass(frozen=True)
class Proposal:
    """What a table's columns suggest. `formats`: columns of dates written as text, and how (several: no telling)."""

    rows: int
    columns: list[str]
    key: str | None
    time: str | None
    nulls: bool
    formats: dict[str, list[str]]
    text: list[str]
    encoding: str | None


def propose(path: Path) -> Proposal:
    """Key, time column and text columns of a table, by what its values are. Raises SourceError."""
    rows, encoding = _read(path)
    if not rows.width:
        raise SourceError(f"{path}: no columns.")
    unique = [
        n for n in rows.columns if rows[n].null_count() == 0 and rows.height and rows[n].n_unique() == rows.height
    ]
    ids = _keys(rows, unique)
    formats = {n: found for n in rows.columns if rows[n].dtype == pl.String and (found := _formats(rows[n]))}
    times = [n for n in rows.columns if rows[n].dtype == pl.Date or isinstance(rows[n].dtype, pl.Datetime)]
    times += [n for n, found in formats.items() if len(found) == 1]
    time = min(times, key=lambda n: rows[n].null_count(), default=None)
    lengths = {
        n: float(rows[n].str.len_chars().mean() or 0)  # type: ignore[arg-type]
        for n in rows.columns
        if rows[n].dtype == pl.String and n not in ids and n not in formats
    }
    longest = sorted(lengths, key=lambda n: -lengths[n])[:2]
    text = [n for n in rows.columns if n in longest and (lengths[n] >= 8 or len(longest) == 1)] or rows.columns[:1]
    nulls = time is not None and rows[time].null_count() > 0
    return Proposal(rows.height, rows.columns, ids[0] if ids else None, time, nulls, formats, text, encoding)


def _keys(rows: pl.DataFrame, unique: list[str]) -> list[str]:
    """Of the columns without a repetition, those that name a row: by their own name, or by being codes (numbers, short
    texts without blanks) in the first column."""
    named = [n for n in unique if n.lower().endswith(("id", "key", "number", "nr", "ref", "code", "uuid", "sku"))]
    first = rows.columns[0]
    if named or first not in unique:
        return named
    values = rows[first]
    texts = values.dtype == pl.String and not values.str.contains(r"\s|^.{40,}$").any()
    return [first] if texts or values.dtype.is_integer() else []


def _formats(values: pl.Series) -> list[str]:
    """The ways of writing dates that fit every value that is there."""
    there = values.drop_nulls().head(_SAMPLE_ROWS)
    if not there.len() or not there.str.contains(r"^\d{1,4}[-/. ]\w").all():
        return []
    ways = (day + clock for clock in _CLOCKS for day in _DAYS)
    return [way for way in ways if there.str.to_datetime(way, strict=False, time_unit="us").null_count() == 0]


def _read(path: Path) -> tuple[pl.DataFrame, str | None]:
    """The table, read as a run would read it; a wrong encoding is guessed once."""
    try:
        return _table(path, None), None
    except SourceError as exc:
        marker = "source.encoding: "
        if marker not in exc.hint:
            raise
        encoding = exc.hint.split(marker, 1)[1].split(" ", 1)[0]
        return _table(path, encoding), encoding


def _table(path: Path, encoding: str | None) -> pl.DataFrame:
    source = Source(path=str(path.absolute()), encoding=encoding)
    list_source(source, path.parent)
    stage = Stage(name="x", uses="sql", query="SELECT * FROM rows")
    spec = Spec(name="init", source=source, stages=[stage], sink=Sink(path="memory"))
    snapshot = snapshot_of(spec, path.absolute().parent, MemoryStore("init"), pinned={})
    entry = snapshot.entry(snapshot.partitions[0])
    ranges, room = [], _SAMPLE_ROWS
    for found in entry.ranges:
        ranges.append(found.model_copy(update={"rows": min(found.rows, room)}))
        room -= ranges[-1].rows
    return snapshot.read(entry.partition, ranges)
