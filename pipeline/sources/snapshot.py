"""A snapshot: an input as it was listed, split by partition. Immutable, and named by a digest of its input, so that the
command line, the plan activity and every later run over the same input share one.

A partition is a list of row ranges. Where the source is Parquet whose row groups are small and whose rows of a
partition lie together, the ranges point into the source itself. Otherwise one pass splits it into staged Parquet of
small row groups in partition order. Either way the input is read once here and once by the batches, whatever their
number.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.process_state import STATE
from pipeline.sources.listing import SourceFile, check_unchanged, open_file
from pipeline.sources.readiness import WaitingFile
from pipeline.stores import Store
from pipeline.stores.documents import read_document
from pipeline.stores.parquet import batches_of, table_of
from schemas import partition_keys
from schemas.arrow_tables import empty_table
from schemas.errors import Damaged, ObjectMissing, SourceError
from schemas.manifest import Noun
from schemas.staging import RowRange, StagedFile
from schemas.tables import conform, decode_schema

FORMAT = 1
_ESTIMATED_FILES = 3
READ_ROWS = 65_536
READ_BYTES = 16 * 1024 * 1024


class Entry(Noun):
    """One partition of an input. `fingerprint` covers its rows, their order, and all columns."""

    partition: str
    rows: int
    fingerprint: str
    ranges: tuple[RowRange, ...]


class InputFile(Noun):
    """A file that ranges point into: of the source, or staged under the sink (`uri` is then its key)."""

    uri: str
    relative: str
    size: int
    etag: str
    staged: bool = False


class SnapshotInfo(Noun):
    """`types` are the columns' types of a text source, to be pinned; `key_columns` are those that only the path holds;
    `constants` are hive levels that no file has as a column. `listed`: the files of the source, if `files` are staged
    ones; None in snapshots of earlier versions."""

    format: int = FORMAT
    key: str
    arrow_schema: str
    types: dict[str, str]
    key_columns: tuple[str, ...]
    constants: tuple[str, ...]
    files: tuple[InputFile, ...]
    entries: str
    rows: int
    bytes: int
    listed: tuple[str, ...] | None = None

    @property
    def sources(self) -> tuple[str, ...] | None:
        """The files of the source, by their paths below its root; None if unknown."""
        if any(file.staged for file in self.files):
            return self.listed
        return tuple(file.relative for file in self.files)


@dataclass(frozen=True)
class Snapshot:
    """`schema` is that of the rows as stages see them; `waiting` are files that were left to a later run."""

    info: SnapshotInfo
    schema: pa.Schema
    entries: pl.DataFrame
    store: Store
    waiting: tuple[WaitingFile, ...] = ()

    @property
    def partitions(self) -> list[str]:
        keys: list[str] = self.entries["partition"].to_list()
        return keys

    def entry(self, partition: str) -> Entry:
        """Raises KeyError for a partition that is not in the input."""
        place = self.entries["partition"].search_sorted(partition)  # in order: there may be a million
        if place < self.entries.height and self.entries["partition"][place] == partition:
            return _entry(self.entries.row(place, named=True))
        return self.entries_of([partition])[partition]

    def entries_of(self, partitions: Sequence[str]) -> dict[str, Entry]:
        """Return the entries of many partitions, in one pass; those that are not in the input are left out."""
        chosen = self.entries.filter(pl.col("partition").is_in(list(partitions)))
        return {row["partition"]: _entry(row) for row in chosen.iter_rows(named=True)}

    def row_bytes(self, entry: Entry) -> int:
        """Estimate the bytes of a row of a partition, by the row groups of its first files."""
        files = list(dict.fromkeys(found.file for found in entry.ranges))[:_ESTIMATED_FILES]
        estimates = [0]
        for file in (self.info.files[number] for number in files):
            estimates.append(_row_bytes(self._footer_of(file)))
        return max(estimates)

    def read(self, partition: str, ranges: Sequence[RowRange]) -> pl.DataFrame:
        """Read some ranges of a partition, in order. Raises InputChanged."""
        tables = [self._read(found) for found in ranges if found.rows]
        table = pa.concat_tables(tables) if tables else empty_table(self.file_schema)
        frame = pl.DataFrame(table)
        if self.info.constants:
            values = dict(partition_keys.parse_partition_key(partition))
            frame = frame.with_columns(pl.lit(values.get(name), pl.String).alias(name) for name in self.info.constants)
        return frame.select(self.schema.names)

    def frames(
        self, partition: str, ranges: Sequence[RowRange], columns: Sequence[str] | None = None
    ) -> Iterator[pl.DataFrame]:
        """Yield the rows of some ranges in order, READ_ROWS or READ_BYTES at once, each row group read once whatever
        its size; `columns`: only these, at least one. Raises InputChanged, SourceError."""
        names = self.schema.names if columns is None else list(columns)
        schema = pa.schema([field for field in self.file_schema if field.name in names])
        constants = [name for name in self.info.constants if name in names]
        values = dict(partition_keys.parse_partition_key(partition)) if constants else {}
        for found in ranges:
            for table in self._streamed(found, schema) if found.rows else ():
                frame = pl.DataFrame(table)  # of at least one column, as it has the number of rows
                added = [pl.lit(values.get(name), pl.String).alias(name) for name in constants]
                yield frame.with_columns(added).select(names)

    def _streamed(self, part: RowRange, schema: pa.Schema) -> Iterator[pa.Table]:
        file = self.info.files[part.file]
        try:
            footer = self._footer_of(file)
            groups, skip = _groups(footer, part)
            most = max(1, min(READ_ROWS, READ_BYTES // max(1, _row_bytes(footer))))
            left = part.rows
            with open_input(file, self.store) as source, pq.ParquetFile(source, metadata=footer) as parquet:
                present = set(parquet.schema_arrow.names)
                some = [name for name in schema.names if name in present] or parquet.schema_arrow.names[:1]
                for batch in batches_of(parquet, most, some, groups):
                    rows = pa.Table.from_batches([batch]).slice(skip, left)
                    skip -= min(skip, batch.num_rows)
                    left -= rows.num_rows
                    if rows.num_rows:
                        yield conform(rows, schema) if schema.names else rows
        except (pa.ArrowException, OSError) as exc:
            raise _unreadable(file, exc) from None
        _check_unchanged(file)

    def with_files(self, staged: Iterable[StagedFile]) -> "Snapshot":
        """Return the snapshot with staged files behind its own, for ranges that count them."""
        more = [
            InputFile(uri=file.key, relative=file.key, size=file.size, etag=file.sha256, staged=True) for file in staged
        ]
        return replace(self, info=self.info.model_copy(update={"files": (*self.info.files, *more)}))

    def with_ranges(self, partition: str, ranges: Sequence[RowRange]) -> "Snapshot":
        """Return the snapshot with other rows in a partition."""
        entry = pl.DataFrame(
            [
                {
                    "rows": sum(found.rows for found in ranges),
                    "files": [found.file for found in ranges],
                    "starts": [found.start for found in ranges],
                    "counts": [found.rows for found in ranges],
                }
            ]
        )
        mine = self.entries.filter(pl.col("partition") == partition)
        changed = mine.with_columns(entry[name].cast(mine.schema[name]) for name in entry.columns)
        return replace(self, entries=changed)

    def largest_group(self, entry: Entry) -> int:
        """Return the rows of the largest row group of a partition's files."""
        footers = [self._footer_of(self.info.files[file]) for file in {found.file for found in entry.ranges}]
        return max((f.row_group(group).num_rows for f in footers for group in range(f.num_row_groups)), default=0)

    @property
    def file_schema(self) -> pa.Schema:
        """The columns that the files hold: without those that only paths have."""
        return pa.schema([f for f in self.schema if f.name not in self.info.constants])

    def _read(self, part: RowRange) -> pa.Table:
        file = self.info.files[part.file]
        same = self._identity(file)
        try:
            footer = self._footer_of(file)
            groups, skip = _groups(footer, part)
            tables = [
                STATE.row_groups.get((*same, group), partial(self._group, file, footer, group)) for group in groups
            ]
        except (pa.ArrowException, OSError) as exc:
            raise _unreadable(file, exc) from None
        _check_unchanged(file)
        return conform(pa.concat_tables(tables).slice(skip, part.rows), self.file_schema)

    def _footer_of(self, file: InputFile) -> pq.FileMetaData:
        def read() -> pq.FileMetaData:
            with open_input(file, self.store) as source:
                return pq.read_metadata(source)

        return STATE.footers.get(self._identity(file), read)

    def _identity(self, file: InputFile) -> tuple[str, str, str]:
        return self.store.uri if file.staged else "", file.uri, file.etag

    def _group(self, file: InputFile, footer: pq.FileMetaData, group: int) -> pa.Table:
        names = self.file_schema.names
        with (
            open_input(file, self.store) as source,
            pq.ParquetFile(source, metadata=footer, pre_buffer=True) as parquet,
        ):
            present = set(parquet.schema_arrow.names)
            return parquet.read_row_group(group, columns=[name for name in names if name in present])


def _entry(row: Mapping[str, Any]) -> Entry:
    ranges = zip(row["files"], row["starts"], row["counts"], strict=True)
    return Entry(
        partition=row["partition"],
        rows=row["rows"],
        fingerprint=row["fingerprint"],
        ranges=tuple(RowRange(file=f, start=s, rows=c) for f, s, c in ranges),
    )


def _row_bytes(footer: pq.FileMetaData) -> int:
    size = sum(footer.row_group(group).total_byte_size for group in range(footer.num_row_groups))
    return int(size // max(1, footer.num_rows))


def _unreadable(file: InputFile, exc: Exception) -> SourceError:
    """Return the error of a file that cannot be read. Raises InputChanged if it is another one by now."""
    _check_unchanged(file)
    return SourceError(f"{file.uri}: not readable as Parquet: {' '.join(str(exc).split())[:160]}")


def open_input(file: InputFile, store: Store) -> pa.NativeFile:
    return store.open_input(file.uri) if file.staged else open_file(_source_file(file))


def _check_unchanged(file: InputFile) -> None:
    if not file.staged:
        check_unchanged(_source_file(file))


def _source_file(file: InputFile) -> SourceFile:
    return SourceFile(file.uri, file.relative, file.size, file.etag)


def _groups(metadata: pq.FileMetaData, part: RowRange) -> tuple[list[int], int]:
    """Return the row groups that hold a range, and the number of their rows that come before it."""
    groups: list[int] = []
    skip = position = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if position + rows > part.start and position < part.start + part.rows:
            if not groups:
                skip = part.start - position
            groups.append(group)
        position += rows
    return groups, skip


# Writing and loading -----------------------------------------------------------------------------------------------


def save(store: Store, info: SnapshotInfo, entries: Sequence[Entry]) -> Snapshot:
    """Write the entries, then the description that makes the snapshot exist."""
    frame = pl.DataFrame(
        {
            "partition": [e.partition for e in entries],
            "rows": [e.rows for e in entries],
            "fingerprint": [e.fingerprint for e in entries],
            "files": [[r.file for r in e.ranges] for e in entries],
            "starts": [[r.start for r in e.ranges] for e in entries],
            "counts": [[r.rows for r in e.ranges] for e in entries],
        },
        schema={
            "partition": pl.String, "rows": pl.Int64, "fingerprint": pl.String,
            "files": pl.List(pl.Int32), "starts": pl.List(pl.Int64), "counts": pl.List(pl.Int64),
        },
    ).sort("partition")  # fmt: skip
    sink = pa.BufferOutputStream()
    pq.write_table(frame.to_arrow(), sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    folder = info.key.removesuffix("snapshot.json")
    info = info.model_copy(update={"entries": f"{folder}entries-{hashlib.sha256(data).hexdigest()[:16]}.parquet"})
    store.put_absent(info.entries, data)
    store.put_absent(info.key, info.model_dump_json().encode())
    return load(store, info.key)


def load(store: Store, key: str) -> Snapshot:
    """Load the snapshot with this key. Raises ObjectMissing, Damaged; SourceError for one of a newer version."""
    found: Snapshot = STATE.snapshots.get((store.uri, key), lambda: _read(store, key))
    return replace(found, store=store)


def _read(store: Store, key: str) -> Snapshot:
    info = read_document(store, key, SnapshotInfo)
    if info.format != FORMAT:
        raise SourceError(f"{key}: written by another version of Tandem (format {info.format}).", hint="Upgrade.")
    try:
        with store.open_input(info.entries) as source:
            entries = pl.DataFrame(table_of(source))
    except (pa.ArrowException, OSError, ObjectMissing) as exc:
        raise Damaged(f"{store.uri}/{info.entries} is damaged.", hint="Run it again: the file is rebuilt.") from exc
    return Snapshot(info, decode_schema(info.arrow_schema), entries, store)
