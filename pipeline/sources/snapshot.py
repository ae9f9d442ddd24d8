"""A snapshot: an input as it was listed, split by partition. Immutable, and named by what it was made from, so that the
command line, the plan activity and every later run over the same input share one.

A partition is a list of row ranges. Where the source is Parquet whose row groups are small and whose rows of a partition
lie together, the ranges point into the source itself. Otherwise one pass splits it into staged Parquet of small
row groups in partition order. Either way the input is read once here and once by the batches, whatever their number.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.sources.listing import SourceFile, open_file
from pipeline.stores import Store
from schemas import ids
from schemas.errors import ObjectMissing, SourceError
from schemas.manifest import Noun
from schemas.tables import stored_schema

FORMAT = 1


_loaded: dict[tuple[str, str], "Snapshot"] = {}  # immutable, so a process loads each once


class RowRange(Noun):
    """`rows` rows of file number `file`, from row `start`."""

    file: int
    start: int
    rows: int


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
    `constants` are hive levels that no file has as a column."""

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


@dataclass(frozen=True)
class Snapshot:
    """`schema` is that of the rows as stages see them."""

    info: SnapshotInfo
    schema: pa.Schema
    entries: pl.DataFrame
    store: Store

    @property
    def partitions(self) -> list[str]:
        keys: list[str] = self.entries["partition"].to_list()
        return keys

    def entry(self, partition: str) -> Entry:
        """Raises KeyError for a partition that is not in the input."""
        found = self.entries.filter(pl.col("partition") == partition)
        if not found.height:
            raise KeyError(partition)
        row = found.row(0, named=True)
        ranges = zip(row["files"], row["starts"], row["counts"], strict=True)
        return Entry(
            partition=partition,
            rows=row["rows"],
            fingerprint=row["fingerprint"],
            ranges=tuple(RowRange(file=f, start=s, rows=c) for f, s, c in ranges),
        )

    def read(self, partition: str, ranges: Sequence[RowRange]) -> pl.DataFrame:
        """The rows of some ranges of a partition, in order. Raises InputChanged."""
        tables = [self._read(found) for found in ranges if found.rows]
        table = pa.concat_tables(tables) if tables else self._file_schema().empty_table()
        frame = pl.DataFrame(table)
        if self.info.constants:
            values = dict(ids.parse_partition_key(partition))
            frame = frame.with_columns(pl.lit(values.get(name), pl.String).alias(name) for name in self.info.constants)
        return frame.select(self.schema.names)

    def _file_schema(self) -> pa.Schema:
        return pa.schema([f for f in self.schema if f.name not in self.info.constants])

    def _read(self, wanted: RowRange) -> pa.Table:
        file = self.info.files[wanted.file]
        schema = self._file_schema()
        with open_input(file, self.store) as source, pq.ParquetFile(source) as parquet:
            groups, skip = _groups(parquet.metadata, wanted)
            names = set(parquet.schema_arrow.names)
            table = parquet.read_row_groups(groups, columns=[n for n in schema.names if n in names])
        return conform(table.slice(skip, wanted.rows), schema)


def open_input(file: InputFile, store: Store) -> pa.NativeFile:
    if file.staged:
        return store.open_input(file.uri)
    return open_file(SourceFile(file.uri, file.relative, file.size, file.etag))


def _groups(metadata: pq.FileMetaData, wanted: RowRange) -> tuple[list[int], int]:
    """The row groups that hold a range, and how many of their rows come before it."""
    groups: list[int] = []
    skip = at = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if at + rows > wanted.start and at < wanted.start + wanted.rows:
            if not groups:
                skip = wanted.start - at
            groups.append(group)
        at += rows
    return groups, skip


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with exactly these columns and types; absent columns are null."""
    columns = []
    for field in schema:
        if field.name in table.column_names:
            columns.append(table.column(field.name).cast(field.type, safe=not pa.types.is_timestamp(field.type)))
        else:
            columns.append(pa.nulls(table.num_rows, field.type))
    return pa.Table.from_arrays(columns, schema=schema)


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
    """The snapshot at a key. Raises ObjectMissing; SourceError for one of a newer version."""
    found = _loaded.get((store.uri, key))
    if found is not None:
        return found
    info = SnapshotInfo.model_validate_json(store.get(key))
    if info.format != FORMAT:
        raise SourceError(f"{key}: written by another version of Tandem (format {info.format}).", hint="Upgrade.")
    with store.open_input(info.entries) as source:
        entries = pl.DataFrame(pq.read_table(source))
    if len(_loaded) >= 8:
        _loaded.clear()
    found = _loaded[store.uri, key] = Snapshot(info, decode_schema(info.arrow_schema), entries, store)
    return found


def exists(store: Store, key: str) -> bool:
    try:
        return store.head(key) is not None
    except ObjectMissing:
        return False


def encode_schema(schema: pa.Schema) -> str:
    """An Arrow schema as text (IPC, base64)."""
    return base64.b64encode(stored_schema(schema).serialize().to_pybytes()).decode()


def decode_schema(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
