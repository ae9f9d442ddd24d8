"""Building a snapshot: the rows of the source, split into partitions in constant memory."""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.progress_note import Note, unnoted
from pipeline.sources import snapshot as snapshots
from pipeline.sources.listing import Listing
from pipeline.sources.partitioning import check_partition_column, hive_levels, key_name, keys_of
from pipeline.sources.readers import ParquetReader, Reader, TextReader
from pipeline.sources.readiness import WaitingFile, ready_files
from pipeline.sources.snapshot import Entry, InputFile, Snapshot, SnapshotInfo
from pipeline.stores import Store
from schemas import digests, ids, partition_keys, tables
from schemas.errors import Damaged, ObjectMissing, SourceError
from schemas.partition_keys import NULL
from schemas.spec.sections import Partition, Spec
from schemas.staging import RowRange
from schemas.tables import conform
from stages.journal.fingerprints import row_texts

_CHEAP_ROWS = 200_000  # to be read again rather than written
STAGED_GROUP_ROWS = 2_000
STAGED_GROUP_BYTES = 16 * 1024 * 1024
_STAGED_LEAST_ROWS = 256  # partitions of fewer rows share a row group: a group a row would be slow and large
_BUFFER_ROWS = 50_000
_BUFFER_BYTES = 16 * 1024 * 1024
_TEXT_ROWS = 16_384


def snapshot_of(spec: Spec, base: Path, store: Store, *, pinned: dict[str, str], note: Note = unnoted) -> Snapshot:
    """Return the snapshot of the source as it is now, without the files that wait; made if it is absent. `note` is
    called with the number of rows read. Raises SourceError, InputChanged."""
    found = ready_files(spec.source, base)
    snapshot = _snapshot_of(spec, found.listing, store, pinned, note)
    if not found.waiting:
        return snapshot
    names = [*snapshot.schema.names, *_output_names(spec)]
    return replace(snapshot, waiting=tuple(_with_partition(spec.partition, names, file) for file in found.waiting))


def _with_partition(partition: Partition, columns: Sequence[str], file: WaitingFile) -> WaitingFile:
    """Add the partition that a waiting file, or its folder, makes."""
    if partition.by == "hive":
        return replace(file, partition=partition_keys.partition_key(hive_levels(file.relative)))
    if partition.by == "files" and partition.files == 1:
        return replace(file, partition=partition_keys.partition_key([(key_name(partition, columns), file.relative)]))
    return file


def _snapshot_of(spec: Spec, listing: Listing, store: Store, pinned: dict[str, str], note: Note) -> Snapshot:
    key = _key_of(spec, listing, pinned)
    found = _made_before(store, key)
    if found is None and pinned:  # the first run's, before its types were pinned
        found = _made_before(store, _key_of(spec, listing, {}))
        if found is not None and any(pinned.get(name, kind) != kind for name, kind in found.info.types.items()):
            found = None
    if found is not None:
        _check_key(spec, found.schema)
        return found
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        reader: Reader
        if listing.format == "parquet":
            reader = ParquetReader(listing, spec.source.columns, in_order=_selects(spec))
        else:
            reader = TextReader(spec, listing, Path(folder), pinned, note)
        return _Splitter(spec, listing, reader, store, key, Path(folder), note).run()


def _key_of(spec: Spec, listing: Listing, pinned: dict[str, str]) -> str:
    return f"{ids.snapshot_folder(_identity(spec, listing, pinned))}snapshot.json"


def _made_before(store: Store, key: str) -> Snapshot | None:
    """Return the snapshot with this key. One that is damaged is removed: it is derived from the source."""
    try:
        # Removed meanwhile, this process's cache would still show it.
        return snapshots.load(store, key) if store.head(key) is not None else None
    except ObjectMissing:
        return None
    except Damaged:
        store.delete(info.key for info in store.list(key.removesuffix("snapshot.json")))
        return None


def _identity(spec: Spec, listing: Listing, pinned: dict[str, str]) -> str:
    return digests.digest(
        str(snapshots.FORMAT),
        listing.fingerprint,
        spec.source.model_dump_json(exclude={"path", "key", "settle", "done"}),
        spec.partition.model_dump_json(),
        str(sorted(pinned.items())) if listing.format != "parquet" else "",
        str(sorted(_output_names(spec))) if spec.partition.by in ("time", "files", "rows") else "",
        *(["in order"] if _selects(spec) else []),
    )


def _selects(spec: Spec) -> bool:
    """True if the first stage chooses rows by a lazy plan, so that partitions are read in order."""
    first = spec.stages[0]
    return first.scope == "batch" and first.uses in ("sql", "sample")


def _output_names(spec: Spec) -> set[str]:
    return {name for stage in spec.stages for name in stage.output}


def _check_key(spec: Spec, columns: pa.Schema) -> None:
    for name in spec.source.key:
        if name not in columns.names:
            raise SourceError(
                f"source.key names {name!r}, which is no column of the source.",
                hint=f"Columns: {', '.join(columns.names)}",
            )


# The split ---------------------------------------------------------------------------------------------------------


@dataclass
class _PartialEntry:
    """A partition while the pass is under way. `state` digests its rows as they come."""

    state: "hashlib.blake2b"
    rows: int = 0
    ranges: list[RowRange] = field(default_factory=list)

    def add(self, file: int, start: int, rows: int) -> bool:
        """Add rows. Returns True if they begin a range of their own."""
        self.rows += rows
        last = self.ranges[-1] if self.ranges else None
        if last and last.file == file and last.start + last.rows == start:
            self.ranges[-1] = RowRange(file=file, start=last.start, rows=last.rows + rows)
            return False
        self.ranges.append(RowRange(file=file, start=start, rows=rows))
        return True


class _Fragmented(Exception):
    """The rows of partitions do not lie together, or are few: reading them would read row groups again and again."""


class _Splitter:
    def __init__(
        self, spec: Spec, listing: Listing, reader: Reader, store: Store, key: str, folder: Path, note: Note
    ) -> None:
        self.partition = spec.partition
        self.listing = listing
        self.reader = reader
        self.store = store
        self.key = key
        self.folder = folder
        self.note = note
        self.levels = self._hive_names() if spec.partition.by == "hive" else ()
        check_partition_column(spec.partition, reader.schema)
        _check_key(spec, self._schema())
        self.name = key_name(self.partition, [*reader.schema.names, *_output_names(spec)])
        self.names = list(reader.schema.names)

    def run(self) -> Snapshot:
        try:
            if not self.reader.referable:
                raise _Fragmented
            files, grown = self._referenced()
        except _Fragmented:
            files, grown = self._staged()
        info = SnapshotInfo(
            key=self.key,
            arrow_schema=tables.encode_schema(self._schema()),
            types=self.reader.types,
            key_columns=(self.partition.column or "",) if self.partition.by == "column" else self.levels,
            constants=self._constants(),
            files=tuple(files),
            entries="",
            rows=sum(p.rows for p in grown.values()),
            bytes=sum(file.size for file in self.listing.files),
            listed=tuple(file.relative for file in self.listing.files) if any(file.staged for file in files) else None,
        )
        entries = [
            Entry(partition=key, rows=p.rows, fingerprint=p.state.hexdigest(), ranges=tuple(p.ranges))
            for key, p in grown.items()
        ]
        return snapshots.save(self.store, info, entries)

    def _hive_names(self) -> tuple[str, ...]:
        """Return the names of the levels, the same for every file, each of them with a value unless `nulls: own`."""
        names: tuple[str, ...] = ()
        for index, file in enumerate(self.listing.files):
            levels = hive_levels(file.relative)
            found = tuple(name for name, _ in levels)
            if index and found != names:
                raise SourceError(
                    f"partition.by = 'hive': {file.relative!r} lies in {'/'.join(found)}, others in {'/'.join(names)}.",
                    hint="Point source.path at a folder all of whose files have the same levels.",
                )
            names = found
            if self.partition.nulls == "error" and any(value is None for _, value in levels):
                raise SourceError(
                    f"partition.by = 'hive': {file.relative!r} lies in a folder of nulls ({NULL}).",
                    hint="Set partition.nulls: own to give them a partition of their own.",
                )
        return names

    def _constants(self) -> tuple[str, ...]:
        return tuple(name for name in self.levels if name not in self.reader.schema.names)

    def _schema(self) -> pa.Schema:
        """The columns as stages see them."""
        return pa.schema([*self.reader.schema, *(pa.field(name, pa.string()) for name in self._constants())])

    def _keyed(self) -> Iterator[tuple[int, int, pl.DataFrame, pl.Series]]:
        """Frames with the partition key of each row."""
        seen = 0
        for index, start, frame in self.reader.frames():
            if not frame.height:  # a header alone
                continue
            yield index, start, frame, self._keys(index, start, seen, frame)
            seen += frame.height
            self.note(frame.height)

    def _keys(self, file: int, start: int, seen: int, frame: pl.DataFrame) -> pl.Series:
        by = self.partition.by
        if by in ("time", "column"):
            column, relative = frame[self.partition.column or ""], self.listing.files[file].relative
            return keys_of(column, self.partition, self.name, start=start, file=relative)
        if by == "rows":
            blocks = pl.int_range(seen, seen + frame.height, eager=True) // self.partition.rows
            keys = {block: self._block(block) for block in blocks.unique().to_list()}
            return blocks.replace_strict(list(keys), list(keys.values()), return_dtype=pl.String)
        return pl.Series([self._file_key(file)], dtype=pl.String).new_from_index(0, frame.height)

    def _block(self, block: int) -> str:
        return partition_keys.partition_key([(self.name, f"{block:06d}")])

    def _file_key(self, file: int) -> str:
        if self.partition.by == "hive":
            return partition_keys.partition_key(hive_levels(self.listing.files[file].relative))
        first = file - file % self.partition.files
        return partition_keys.partition_key([(self.name, self.listing.files[first].relative)])

    def _empty_partitions(self) -> dict[str, _PartialEntry]:
        """Return the partitions that exist without rows: each file's (by files, hive), and the first block."""
        if self.partition.by == "rows":
            return {self._block(0): self._new_entry()}
        if self.partition.by not in ("files", "hive"):
            return {}
        return {self._file_key(index): self._new_entry() for index in range(len(self.listing.files))}

    def _new_entry(self) -> _PartialEntry:
        types = "\0".join(f"{f.name}:{f.type}" for f in self.reader.schema)
        return _PartialEntry(hashlib.blake2b(types.encode(), digest_size=16))

    def _digest(self, grown: dict[str, _PartialEntry], keys: pl.Series, rows: pl.DataFrame) -> None:
        """Add rows to what their partitions' digests have seen; some partitions begin with them."""
        for index in range(0, rows.height, _TEXT_ROWS):
            texts = row_texts(rows[index : index + _TEXT_ROWS], self.names, end="\n").to_arrow().cast(pa.large_string())
            _, offsets, data = texts.buffers()
            ends, content = np.frombuffer(offsets, np.int64), memoryview(data or b"")
            place = texts.offset
            for length, key in keys[index : index + _TEXT_ROWS].rle().struct.unnest().iter_rows():
                if key not in grown:
                    grown[key] = self._new_entry()
                grown[key].state.update(content[ends[place] : ends[place + length]])
                place += length

    def _referenced(self) -> tuple[list[InputFile], dict[str, _PartialEntry]]:
        """Ranges of the source itself. Raises _Fragmented where there would be many small ones."""
        grown = self._empty_partitions()
        seen = cost = 0
        for index, start, frame, keys in self._keyed():
            self._digest(grown, keys, frame)
            offset = 0
            for length, key in keys.rle().struct.unnest().iter_rows():
                if grown[key].add(index, start + offset, length):
                    cost += self.reader.group_rows[index]
                offset += length
            seen += frame.height
            if cost > 2 * max(seen, self.reader.rows_in_order) + _CHEAP_ROWS:
                raise _Fragmented
        files = [InputFile(uri=f.uri, relative=f.relative, size=f.size, etag=f.etag) for f in self.listing.files]
        return files, grown

    def _staged(self) -> tuple[list[InputFile], dict[str, _PartialEntry]]:
        """Staged files in partition order."""
        grown = self._empty_partitions()
        files: list[InputFile] = []
        buffer: list[pl.DataFrame] = []
        rows = size = 0
        for _, _, frame, keys in self._keyed():
            buffer.append(frame.with_columns(keys.alias(_KEY)))
            rows += frame.height
            size += int(frame.estimated_size())
            if rows >= _BUFFER_ROWS or size >= _BUFFER_BYTES:
                files.append(self._write(len(files), pl.concat(buffer), grown))
                buffer, rows, size = [], 0, 0
        if rows:
            files.append(self._write(len(files), pl.concat(buffer), grown))
        return files, grown

    def _write(self, number: int, frame: pl.DataFrame, grown: dict[str, _PartialEntry]) -> InputFile:
        path = self.folder / f"staged-{number:06d}.parquet"
        keys, rows = frame[_KEY], frame.drop(_KEY)
        if not keys.is_sorted():
            order = frame.select(pl.arg_sort_by(_KEY, maintain_order=True)).to_series()
            keys, rows = keys[order], rows[order]
        table = conform(rows.to_arrow(), self.reader.schema)
        self._digest(grown, keys, rows)
        most = max(1, min(STAGED_GROUP_ROWS, STAGED_GROUP_BYTES * table.num_rows // max(1, table.nbytes)))
        position = group = 0
        with pq.ParquetWriter(path, self.reader.schema, compression="zstd", compression_level=1) as writer:
            for length, key in keys.rle().struct.unnest().iter_rows():
                grown[key].add(number, position, length)
                position += length
                if position - group >= _STAGED_LEAST_ROWS or position == frame.height:
                    writer.write_table(table.slice(group, position - group), row_group_size=most)
                    group = position
        with path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        key = f"{self.key.removesuffix('snapshot.json')}part-{number:06d}-{content[:16]}.parquet"
        self.store.upload(key, path)
        size = path.stat().st_size
        path.unlink()
        return InputFile(uri=key, relative=key, size=size, etag=content, staged=True)


_KEY = "__tandem_key"
