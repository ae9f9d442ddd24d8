"""Profile of a table for `tandem init`: key, dates, text columns."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from pipeline.sources.date_formats import formats_of
from pipeline.sources.listing import list_source
from pipeline.sources.split import snapshot_of
from pipeline.stores import MemoryStore
from schemas.errors import SourceError
from schemas.spec.sections import Sink, Source, Spec, Stage

_SAMPLE_ROWS = 20_000
_FEW_ROWS = 10  # of so few, distinctness says nothing
_WORDS, _CHARACTERS, _DISTINCT = 2.5, 30, 0.2
_MOST_COLUMNS = 40


@dataclass(frozen=True)
class Proposal:
    """Settings suggested by a table's columns. `formats`: columns of dates written as text, and their formats (several
    if ambiguous). `text`: the columns for the prompt; `whole`: none of them is text, they are the record. `characters`:
    the mean length of the prompt's columns. `constant`: columns of one value, which tell a model nothing."""

    rows: int
    columns: list[str]
    key: str | None
    time: str | None
    nulls: bool
    formats: dict[str, list[str]]
    text: list[str]
    encoding: str | None
    whole: bool = False
    characters: float = 0.0
    constant: tuple[str, ...] = ()


def propose(path: Path) -> Proposal:
    """Propose key, time column and text columns of a table from its values. Raises SourceError."""
    rows, encoding = _read(path)
    if not rows.width:
        raise SourceError(f"{path}: no columns.")
    unique = [
        n for n in rows.columns if rows[n].null_count() == 0 and rows.height and rows[n].n_unique() == rows.height
    ]
    ids = _keys(rows, unique)
    constant = [n for n in rows.columns if rows.height > 1 and rows[n].drop_nulls().n_unique() <= 1]
    formats = {n: found for n in rows.columns if rows[n].dtype == pl.String and (found := formats_of(rows[n]))}
    times = [n for n in rows.columns if rows[n].dtype == pl.Date or isinstance(rows[n].dtype, pl.Datetime)]
    times += [n for n, found in formats.items() if len(found) == 1]
    time = min((n for n in times if n not in constant), key=lambda n: rows[n].null_count(), default=None)
    lengths = {
        n: _mean(rows[n].str.len_chars())
        for n in rows.columns
        if rows[n].dtype == pl.String and n not in (*ids, *formats, *constant) and _is_text(rows[n])
    }
    longest = sorted(lengths, key=lambda n: -lengths[n])[:2]
    informative = [n for n in rows.columns if n not in constant and n not in ids[:1]]
    text = [n for n in rows.columns if n in longest] or informative[:_MOST_COLUMNS] or rows.columns[:1]
    return Proposal(
        rows=rows.height,
        columns=rows.columns,
        key=ids[0] if ids else None,
        time=time,
        nulls=time is not None and rows[time].null_count() > 0,
        formats=formats,
        text=text,
        encoding=encoding,
        whole=not longest,
        characters=sum(lengths[n] for n in longest),
        constant=tuple(constant),
    )


def _is_text(values: pl.Series) -> bool:
    """True for sentences, as against names, codes or labels: several words, or many characters, rarely repeated."""
    present = values.drop_nulls()
    if present.len() > _FEW_ROWS and present.n_unique() < _DISTINCT * present.len():
        return False
    words = _mean(present.str.count_matches(r"\S+"))
    return words >= _WORDS or (words > 1 and _mean(present.str.len_chars()) >= _CHARACTERS)


def _mean(numbers: pl.Series) -> float:
    return float(numbers.mean() or 0)  # type: ignore[arg-type]


def _keys(rows: pl.DataFrame, unique: list[str]) -> list[str]:
    """Return the columns without a repetition that name a row: by their own name, or by being codes (numbers, short
    texts without blanks) in the first column."""
    named = [n for n in unique if n.lower().endswith(("id", "key", "number", "nr", "ref", "code", "uuid", "sku"))]
    first = rows.columns[0]
    if named or first not in unique:
        return named
    values = rows[first]
    texts = values.dtype == pl.String and not values.str.contains(r"\s|^.{40,}$").any()
    return [first] if texts or values.dtype.is_integer() else []


def _read(path: Path) -> tuple[pl.DataFrame, str | None]:
    """Read the table as a run would; a wrong encoding is guessed once."""
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
