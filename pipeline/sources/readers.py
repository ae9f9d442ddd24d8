"""Readers: the typed rows of a source in order, each format's in its own way."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.progress_note import Note
from pipeline.sources.csv import csv_frames
from pipeline.sources.encoding import Chunk
from pipeline.sources.listing import Listing, SourceFile, check_unchanged, open_file
from pipeline.sources.ndjson import ndjson_chunks
from pipeline.sources.parquet_types import given_type, in_types, widest
from pipeline.sources.small_files import read_ahead
from pipeline.sources.type_inference import Inference, Typing
from pipeline.stores.parquet import batches_of
from schemas.arrow_tables import empty_frame
from schemas.errors import SourceError
from schemas.spec.sections import ColumnType, Source, Spec
from schemas.tables import stored_schema, stored_type


def text_chunks(listing: Listing, source: Source) -> Iterator[Chunk]:
    """The source's rows in order, some megabytes at a time. Raises SourceError, InputChanged."""
    for index, file in enumerate(read_ahead(listing.files)):
        if file.size == 0:
            continue
        if listing.format == "csv":
            yield from (Chunk(index, rows) for rows in csv_frames(file, source))
        else:
            yield from ndjson_chunks(index, file)
        check_unchanged(file)


# A batch that starts inside a row group reads the whole group: with larger ones the source is staged instead.
MAX_GROUP_ROWS = 20_000
_MAX_GROUP_BYTES = 128 * 1024 * 1024
_READ_ROWS = 16_384
_READ_BYTES = 32 * 1024 * 1024
_TOGETHER_BYTES = 1024 * 1024  # of text


class Reader:
    """Rows of a source in order, as (index of the file, first row within the file, frame)."""

    schema: pa.Schema
    types: dict[str, str]
    referable: bool
    group_rows: dict[int, int]  # of each file, those of its largest row group
    rows_in_order: int = 0  # of all files, if each partition is read from its first row to its last

    def frames(self) -> Iterator[tuple[int, int, pl.DataFrame]]:
        raise NotImplementedError


class ParquetReader(Reader):
    """Parquet in the widest type of each column, or in the type that the spec gives it (`parquet_types`). `in_order`:
    each partition is read from its first row to its last, so that its row groups may be large."""

    def __init__(self, listing: Listing, columns: Mapping[str, ColumnType], *, in_order: bool = False) -> None:
        self.listing = listing
        self.types = {}
        self.group_rows = {}
        self._columns = columns
        self._group_bytes = self._row_bytes = self._rows = 0
        found: dict[str, list[pa.DataType]] = {}
        for index, file in enumerate(listing.files):
            if file.size:
                self.group_rows[index] = self._add(file, found)
        self.rows_in_order = self._rows if in_order else 0
        self.referable = in_order or max(self.group_rows.values(), default=0) <= MAX_GROUP_ROWS
        self.referable &= self._group_bytes <= _MAX_GROUP_BYTES
        self._refuse_absent(found)
        self._stored = pa.schema([pa.field(name, self._type(name, kinds)) for name, kinds in found.items()])
        self._typing = self._declared_types()
        self.referable &= not self._typing.types and not self._parses_text(found)
        typed = stored_schema(self._typing.cast(empty_frame(self._stored)).to_arrow().schema)
        self.schema = pa.schema([typed.field(f.name) if f.name in self._typing.types else f for f in self._stored])

    def _add(self, file: SourceFile, found: dict[str, list[pa.DataType]]) -> int:
        """Take a file's columns into account. Returns the rows of its largest row group."""
        try:
            with open_file(file) as source, pq.ParquetFile(source) as parquet:
                schema, metadata = parquet.schema_arrow, parquet.metadata
                groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        except (pa.ArrowException, OSError) as exc:
            raise _unreadable(file, exc) from None
        if len(set(schema.names)) < len(schema.names):
            raise SourceError(f"{file.uri}: two of its columns have the same name.", hint="Rename one of them.")
        for field in schema:
            if field.type in _UNREADABLE or pa.types.is_decimal256(field.type):
                raise SourceError(f"{file.uri}: column {field.name!r} is {field.type}, which cannot be read.")
            before = found.setdefault(field.name, [])
            if field.type in before:
                continue
            if field.name not in self._columns and widest([*before, field.type]) is None:
                raise SourceError(
                    f"{file.uri}: column {field.name!r} is {field.type}, in files before it {widest(before)}.",
                    hint="Write the files with one type, or give the column one in the spec: source.columns: "
                    f"{{{field.name}: str}}.",
                )
            before.append(field.type)
        self._rows += sum(group.num_rows for group in groups)
        self._group_bytes = max([self._group_bytes, *(group.total_byte_size for group in groups)])
        self._row_bytes = max([self._row_bytes, *(g.total_byte_size // g.num_rows for g in groups if g.num_rows)])
        return max((int(group.num_rows) for group in groups), default=0)

    def _refuse_absent(self, found: Mapping[str, object]) -> None:
        for name in self._columns:
            if name not in found:
                raise SourceError(
                    f"source.columns names {name!r}, which is no column of the source.",
                    hint=f"Columns: {', '.join(found)}",
                )

    def _type(self, name: str, found: list[pa.DataType]) -> pa.DataType:
        if name in self._columns:
            return given_type(name, self._columns[name], found)
        return widest(found)

    def _parses_text(self, found: Mapping[str, list[pa.DataType]]) -> bool:
        """True if a column is text in some files and has the type that the spec gives it in others."""
        return any(
            not pa.types.is_string(self._stored.field(name).type) and pa.string() in map(stored_type, found[name])
            for name in self._columns
        )

    def _declared_types(self) -> Typing:
        """Return the typing of the columns that are text in all files and that the spec gives another type."""
        text = {n: c for n, c in self._columns.items() if pa.types.is_string(self._stored.field(n).type)}
        text = {name: column for name, column in text.items() if column.type != "str"}
        unsure = [name for name, column in text.items() if column.type == "datetime" and not column.format]
        inference = Inference()
        if unsure:  # has it a zone? only its values know
            for _, _, table in self._tables(unsure):
                inference.observe(pl.DataFrame(table))
        return Typing.decide(inference.types(text) if unsure else dict.fromkeys(text, "str"), text, {})

    def _tables(self, names: list[str]) -> Iterator[tuple[int, int, pa.Table]]:
        schema = pa.schema([self._stored.field(name) for name in names])
        for index, file in enumerate(self.listing.files):
            if not file.size:
                continue
            start = 0
            try:
                with open_file(file) as source, pq.ParquetFile(source) as parquet:
                    present = [name for name in names if name in parquet.schema_arrow.names]
                    rows = max(1, min(_READ_ROWS, _READ_BYTES // max(1, self._row_bytes)))
                    for batch in batches_of(parquet, rows, present):
                        table = pa.Table.from_batches([batch])
                        yield index, start, in_types(table, schema, self._columns, file.uri)
                        start += batch.num_rows
            except (pa.ArrowException, OSError) as exc:
                check_unchanged(file)
                raise _unreadable(file, exc) from None
            check_unchanged(file)

    def frames(self) -> Iterator[tuple[int, int, pl.DataFrame]]:
        for index, start, table in self._tables(self._stored.names):
            yield index, start, self._typing.cast(pl.DataFrame(table))


_UNREADABLE = (pa.month_day_nano_interval(),)


def _unreadable(file: SourceFile, exc: Exception) -> SourceError:
    return SourceError(
        f"{file.uri}: not readable as Parquet: {' '.join(str(exc).split())[:160]}",
        hint="Is it complete, and is source.format right?",
    )


class TextReader(Reader):
    """First pass: values as text to local files, types inferred over all of them. `frames` gives them typed."""

    def __init__(self, spec: Spec, listing: Listing, folder: Path, pinned: dict[str, str], note: Note) -> None:
        self.referable = False
        self._texts: list[_LocalText] = []
        inference = Inference()
        names: dict[str, None] = {}
        for chunks in _together(text_chunks(listing, spec.source), note):
            rows = pl.concat([chunk.rows for chunk in chunks], rechunk=True)
            names.update(dict.fromkeys(rows.columns))
            inference.observe(rows, chunks[0].quoted)
            path = folder / f"text-{len(self._texts):06d}.parquet"
            rows.write_parquet(path, compression="lz4", statistics=False)
            self._texts.append(_LocalText(path, [(chunk.file, chunk.rows.height) for chunk in chunks]))
        if not names:
            raise SourceError(f"source.path = {spec.source.path!r}: no rows and no header.")
        self._typing = Typing.decide(inference.types(names), spec.source.columns, pinned)
        self.types = dict(self._typing.types)
        self._names = list(names)
        empty = pl.DataFrame(schema=dict.fromkeys(names, pl.String))
        self.schema = stored_schema(self._typing.cast(empty).to_arrow().schema)

    def _typed(self, path: Path) -> pl.DataFrame:
        frame = pl.read_parquet(path)
        missing = set(self._names).difference(frame.columns)
        frame = frame.with_columns(pl.lit(None, pl.String).alias(name) for name in missing)
        return self._typing.cast(frame.select(self._names))

    def frames(self) -> Iterator[tuple[int, int, pl.DataFrame]]:
        starts: dict[int, int] = {}
        for text in self._texts:
            frame, place = self._typed(text.path), 0
            for index, rows in text.parts:
                yield index, starts.get(index, 0), frame[place : place + rows]
                starts[index] = starts.get(index, 0) + rows
                place += rows
            text.path.unlink()


@dataclass(frozen=True)
class _LocalText:
    """A local file with rows of one file of the source, or of several small ones: their numbers, and the rows of
    each."""

    path: Path
    parts: list[tuple[int, int]]


def _together(chunks: Iterable[Chunk], note: Note) -> Iterator[list[Chunk]]:
    """Yield chunks with the same columns together, up to a size: work by the chunk is slow for files of a row."""
    held: list[Chunk] = []
    size = 0
    for chunk in chunks:
        note(0)
        if held and (
            size > _TOGETHER_BYTES or (chunk.rows.columns, chunk.quoted) != (held[0].rows.columns, held[0].quoted)
        ):
            yield held
            held, size = [], 0
        held.append(chunk)
        size += int(chunk.rows.estimated_size())
    if held:
        yield held
