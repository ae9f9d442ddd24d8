"""Building a snapshot: one pass over the source, in constant memory."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.sources import snapshot as snapshots
from pipeline.sources.listing import Listing, list_source, open_file
from pipeline.sources.partitions import check_partition_column, hive_levels, key_name, keys_of
from pipeline.sources.snapshot import Entry, InputFile, RowRange, Snapshot, SnapshotInfo, conform
from pipeline.sources.text import text_chunks
from pipeline.sources.types import Inference, Typing
from pipeline.stores import Store
from schemas import ids
from schemas.errors import SourceError
from schemas.spec import Spec
from schemas.tables import stored_schema
from stages.fingerprints import row_texts

# A batch that starts inside a row group reads the whole group: with larger ones the source is staged instead.
_MAX_GROUP_ROWS = 20_000
_STAGED_GROUP_ROWS = 2_000
_BUFFER_ROWS = 100_000
_BUFFER_BYTES = 32 * 1024 * 1024
_READ_ROWS = 16_384
Note = Callable[[int], None]


def snapshot_of(
    spec: Spec, base: Path, store: Store, *, pinned: dict[str, str], note: Note = lambda rows: None
) -> Snapshot:
    """The snapshot of the source as it is now, made if it is not there yet. `note` hears of rows read. Raises
    SourceError, InputChanged."""
    listing = list_source(spec.source, base)
    key = f"{ids.snapshot_folder(_identity(spec, listing, pinned))}snapshot.json"
    if snapshots.exists(store, key):
        return snapshots.load(store, key)
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        reader: _Reader
        if listing.format == "parquet":
            reader = _ParquetReader(listing)
        else:
            reader = _TextReader(spec, listing, Path(folder), pinned, note)
        return _Splitter(spec, listing, reader, store, key, Path(folder), note).run()


def _identity(spec: Spec, listing: Listing, pinned: dict[str, str]) -> str:
    return ids.digest(
        str(snapshots.FORMAT),
        listing.fingerprint,
        spec.source.model_dump_json(exclude={"path", "key"}),
        spec.partition.model_dump_json(),
        str(sorted(pinned.items())),
        str(sorted(_output_names(spec))) if spec.partition.by in ("time", "files", "rows") else "",
    )


def _output_names(spec: Spec) -> set[str]:
    return {name for stage in spec.stages for name in stage.output}


# Readers: typed rows in order --------------------------------------------------------------------------------------


class _Reader:
    """Rows of a source in order, as (index of the file, first row within the file, frame)."""

    schema: pa.Schema
    types: dict[str, str]
    referable: bool

    def frames(self) -> Iterator[tuple[int, int, pl.DataFrame]]:
        raise NotImplementedError


class _ParquetReader(_Reader):
    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.types = {}
        self.referable = True
        fields: dict[str, pa.Field] = {}
        for file in listing.files:
            if not file.size:
                continue
            try:
                with open_file(file) as source, pq.ParquetFile(source) as parquet:
                    schema = stored_schema(parquet.schema_arrow)
                    metadata = parquet.metadata
                    largest = max((metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)), default=0)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as exc:
                raise SourceError(
                    f"{file.uri}: not readable as Parquet: {' '.join(str(exc).split())[:160]}",
                    hint="Is it complete, and is source.format right?",
                ) from None
            self.referable &= largest <= _MAX_GROUP_ROWS
            for found in schema:
                known = fields.setdefault(found.name, found)
                if known.type != found.type:
                    raise SourceError(
                        f"{file.uri}: column {found.name!r} is {found.type}, in files before it {known.type}.",
                        hint="Write the files with one type, or read them in separate pipelines.",
                    )
        self.schema = pa.schema([pa.field(f.name, f.type) for f in fields.values()])

    def frames(self) -> Iterator[tuple[int, int, pl.DataFrame]]:
        for at, file in enumerate(self.listing.files):
            if not file.size:
                continue
            start = 0
            with open_file(file) as source, pq.ParquetFile(source) as parquet:
                for batch in parquet.iter_batches(batch_size=_READ_ROWS):
                    table = conform(pa.Table.from_batches([batch]), self.schema)
                    yield at, start, pl.DataFrame(table)
                    start += batch.num_rows


class _TextReader(_Reader):
    """First pass: values as text to local files, types inferred over all of them. `frames` gives them typed."""

    def __init__(self, spec: Spec, listing: Listing, folder: Path, pinned: dict[str, str], note: Note) -> None:
        self.referable = False
        self._chunks: list[tuple[int, Path]] = []
        inference = Inference()
        names: dict[str, None] = {}
        for chunk in text_chunks(listing, spec.source):
            names.update(dict.fromkeys(chunk.rows.columns))
            inference.observe(chunk.rows, chunk.quoted)
            path = folder / f"text-{len(self._chunks):06d}.parquet"
            chunk.rows.write_parquet(path, compression="lz4", statistics=False)
            self._chunks.append((chunk.file, path))
            note(0)
        if not names:
            raise SourceError(f"source.path = {spec.source.path!r}: no rows and no header.")
        self._typing = Typing.decide(inference.types(names), spec.source.columns, pinned)
        self.types = dict(self._typing.types)
        self._names = list(names)
        empty = pl.DataFrame(schema=dict.fromkeys(names, pl.String))
        self.schema = stored_schema(self._sample(empty).to_arrow().schema)

    def _sample(self, empty: pl.DataFrame) -> pl.DataFrame:
        """No rows, but the types that the first ones get (a given datetime may turn out to have a zone)."""
        for _, path in self._chunks:
            first = self._typed(path, rows=1000)
            if first.height:
                return first.head(0)
        return self._typing.cast(empty)

    def _typed(self, path: Path, rows: int | None = None) -> pl.DataFrame:
        frame = pl.read_parquet(path, n_rows=rows)
        missing = [name for name in self._names if name not in frame.columns]
        frame = frame.with_columns(pl.lit(None, pl.String).alias(name) for name in missing)
        return self._typing.cast(frame.select(self._names))

    def frames(self) -> Iterator[tuple[int, int, pl.DataFrame]]:
        starts: dict[int, int] = {}
        for at, path in self._chunks:
            table = conform(self._typed(path).to_arrow(), self.schema)
            yield at, starts.get(at, 0), pl.DataFrame(table)
            starts[at] = starts.get(at, 0) + table.num_rows


# The split ---------------------------------------------------------------------------------------------------------


@dataclass
class _Growing:
    """A partition while the pass is under way. `state` digests its rows as they come."""

    state: "hashlib.blake2b"
    rows: int = 0
    ranges: list[RowRange] = field(default_factory=list)

    def add(self, file: int, start: int, rows: int) -> None:
        last = self.ranges[-1] if self.ranges else None
        if last and last.file == file and last.start + last.rows == start:
            self.ranges[-1] = RowRange(file=file, start=last.start, rows=last.rows + rows)
        else:
            self.ranges.append(RowRange(file=file, start=start, rows=rows))
        self.rows += rows


class _Fragmented(Exception):
    """The rows of a partition do not lie together: stage them."""


class _Splitter:
    def __init__(
        self, spec: Spec, listing: Listing, reader: _Reader, store: Store, key: str, folder: Path, note: Note
    ) -> None:
        self.partition = spec.partition
        self.listing = listing
        self.reader = reader
        self.store = store
        self.key = key
        self.folder = folder
        self.note = note
        check_partition_column(spec.partition, reader.schema)
        for name in spec.source.key:
            if name not in reader.schema.names:
                raise SourceError(
                    f"source.key names {name!r}, which is no column of the source.",
                    hint=f"Columns: {', '.join(reader.schema.names)}",
                )
        self.name = key_name(self.partition, [*reader.schema.names, *_output_names(spec)])
        self.names = list(reader.schema.names)

    def run(self) -> Snapshot:
        try:
            if not self.reader.referable:
                raise _Fragmented
            files, grown = self._referenced()
        except _Fragmented:
            files, grown = self._staged()
        constants: tuple[str, ...] = ()
        key_columns: tuple[str, ...] = ()
        if self.partition.by == "column":
            key_columns = (self.partition.column or "",)
        elif self.partition.by == "hive":
            key_columns = tuple(name for name, _ in hive_levels(self.listing.files[0].relative))
            constants = tuple(name for name in key_columns if name not in self.names)
        schema = pa.schema([*self.reader.schema, *(pa.field(name, pa.string()) for name in constants)])
        info = SnapshotInfo(
            key=self.key,
            arrow_schema=snapshots.encode_schema(schema),
            types=self.reader.types,
            key_columns=key_columns,
            constants=constants,
            files=tuple(files),
            entries="",
            rows=sum(p.rows for p in grown.values()),
            bytes=sum(file.size for file in self.listing.files),
        )
        entries = [
            Entry(partition=key, rows=p.rows, fingerprint=p.state.hexdigest(), ranges=tuple(p.ranges))
            for key, p in grown.items()
        ]
        return snapshots.save(self.store, info, entries)

    def _keyed(self) -> Iterator[tuple[int, int, pl.DataFrame, pl.Series]]:
        """Frames with the partition key of each row."""
        seen = 0
        for at, start, frame in self.reader.frames():
            yield at, start, frame, self._keys(at, seen, frame)
            seen += frame.height
            self.note(frame.height)

    def _keys(self, file: int, seen: int, frame: pl.DataFrame) -> pl.Series:
        by = self.partition.by
        if by in ("time", "column"):
            return keys_of(frame[self.partition.column or ""], self.partition, self.name)
        if by == "rows":
            blocks = pl.Series(range(seen, seen + frame.height), dtype=pl.Int64) // self.partition.rows
            keys = {block: self._block(block) for block in blocks.unique().to_list()}
            return blocks.replace_strict(list(keys), list(keys.values()), return_dtype=pl.String)
        return pl.Series([self._file_key(file)], dtype=pl.String).new_from_index(0, frame.height)

    def _block(self, block: int) -> str:
        return ids.partition_key([(self.name, f"{block:06d}")])

    def _file_key(self, file: int) -> str:
        if self.partition.by == "hive":
            return ids.partition_key(hive_levels(self.listing.files[file].relative))
        first = file - file % self.partition.files
        return ids.partition_key([(self.name, unquote(self.listing.files[first].relative))])

    def _empty_partitions(self) -> dict[str, _Growing]:
        """With files (and hive) a file without rows is a partition all the same; a block of an empty source too."""
        if self.partition.by not in ("files", "hive"):
            return {}
        return {self._file_key(at): self._grow() for at in range(len(self.listing.files))}

    def _grow(self) -> _Growing:
        types = "\0".join(f"{f.name}:{f.type}" for f in self.reader.schema)
        return _Growing(hashlib.blake2b(types.encode(), digest_size=16))

    def _take(self, grown: dict[str, _Growing], key: str, texts: list[str]) -> _Growing:
        found = grown.get(key)
        if found is None:
            found = grown[key] = self._grow()
        if texts:
            found.state.update("\n".join(texts).encode() + b"\n")
        return found

    def _referenced(self) -> tuple[list[InputFile], dict[str, _Growing]]:
        """Ranges of the source itself. Raises _Fragmented where there would be many small ones."""
        grown = self._empty_partitions()
        pieces = 0
        for at, start, frame, keys in self._keyed():
            texts = row_texts(frame, self.names)
            runs = keys.rle().struct.unnest()
            offset = 0
            for length, key in runs.iter_rows():
                self._take(grown, key, texts[offset : offset + length]).add(at, start + offset, length)
                offset += length
            pieces = sum(len(p.ranges) for p in grown.values()) if len(grown) < 1000 else pieces + runs.height
            if pieces > 100 + 4 * len(grown) + 4 * len(self.listing.files):
                raise _Fragmented
        files = [InputFile(uri=f.uri, relative=f.relative, size=f.size, etag=f.etag) for f in self.listing.files]
        return files, grown

    def _staged(self) -> tuple[list[InputFile], dict[str, _Growing]]:
        """Staged files in partition order, a row group never spanning two partitions."""
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

    def _write(self, number: int, frame: pl.DataFrame, grown: dict[str, _Growing]) -> InputFile:
        path = self.folder / f"staged-{number:06d}.parquet"
        at = 0
        with pq.ParquetWriter(path, self.reader.schema, compression="zstd", compression_level=1) as writer:
            for (key,), part in frame.group_by(_KEY, maintain_order=True):
                rows = part.drop(_KEY)
                table = conform(rows.to_arrow(), self.reader.schema)
                writer.write_table(table, row_group_size=_STAGED_GROUP_ROWS)
                self._take(grown, str(key), row_texts(rows, self.names)).add(number, at, rows.height)
                at += rows.height
        with path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        key = f"{self.key.removesuffix('snapshot.json')}part-{number:06d}-{content[:16]}.parquet"
        self.store.upload(key, path)
        size = path.stat().st_size
        path.unlink()
        return InputFile(uri=key, relative=key, size=size, etag=content, staged=True)


_KEY = "__tandem_key"
