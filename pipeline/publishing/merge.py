"""Final files from staged ones, in bounded memory: the same rows give the same bytes and the same name."""

import datetime as dt
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import methodcaller
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.enrichment.attempt import PartitionRun
from pipeline.enrichment.staging import staged_tables
from pipeline.planning.job import Job
from pipeline.publishing.checks import OutputChecks
from pipeline.sinks.row_files import in_binary
from pipeline.stores.base import same_size
from pipeline.stores.parquet import table_of
from pipeline.stores.scratch_folder import ScratchFolder
from schemas import ids
from schemas.arrow_tables import empty_table
from schemas.digests import file_sha256
from schemas.manifest import DataFile, Provenance
from schemas.staging import StagedFile
from stages.execution import provenance

TARGET_BYTES = 256 * 1024 * 1024
GROUP_ROWS = 250_000
_INDEX_GROUP_ROWS = 62_500  # of an index: nobody looks for ranges in it, and a writer holds a group several times
GROUP_BYTES = 64 * 1024 * 1024
HELD_BYTES = 1024 * 1024  # of staged files whose final ones are made in memory
Content = Path | bytes  # of a final file, on this machine's disk or, a small one, in memory


@dataclass(frozen=True)
class LocalFile:
    """A final file on this machine, and its entry in a manifest."""

    content: Content
    file: DataFile


class Merge:
    """The final files of one generation, made in a `folder`, or in memory if they are small."""

    def __init__(self, work: PartitionRun, base: int, folder: ScratchFolder) -> None:
        self.job = work.job
        self.store = work.store
        self.partition = work.partition
        self.generation = base + 1
        self.folder = folder
        self.note = work.note
        self.footer = {
            b"tandem": orjson.dumps(
                {
                    "pipeline": work.plan.pipeline,
                    "partition": work.partition,
                    "stages": [p.model_dump(exclude_none=True) for p in provenance_of(work.job)],
                }
            )
        }

    def data(self, staged: Sequence[StagedFile], checks: OutputChecks) -> list[LocalFile]:
        """Write data files of the declared schema, at least one. Raises ChecksFailed."""
        schema = self.job.columns
        tables = self.tables(staged, checks)
        if self.job.spec.sink.provenance == "columns":
            tables = (provenance.generation(table, self.generation) for table in tables)
        written = list(self._write(schema, tables, "data", staged))
        checks.verdict()
        time = self._time_column()
        folder = ids.data_folder(self.partition)
        return [self._named(folder, part, content, time) for part, content in enumerate(written)]

    def plain(self, kind: str, schema: pa.Schema, staged: Sequence[StagedFile]) -> list[LocalFile]:
        """Write rejects, questions or index: no file if there are no rows."""
        if not any(file.rows for file in staged):
            return []
        folders = {"rejects": ids.rejects_folder, "pending": ids.pending_folder, "index": ids.index_folder}
        folder = folders[kind](self.partition)
        read = in_binary if kind == "index" else partial(of_any_version, schema)
        tables = (read(table) for table in self.tables(staged, None))
        written = self._write(schema, tables, kind, staged)
        return [self._named(folder, part, content, None) for part, content in enumerate(written)]

    def upload(self, files: Sequence[LocalFile]) -> list[DataFile]:
        """Upload files to the keys that manifests name."""
        for local in files:
            if isinstance(local.content, bytes):
                if not self.store.put_absent(local.file.key, local.content):
                    same_size(self.store, local.file.key, local.file.size)
            else:
                self.store.upload(local.file.key, local.content)
            self.note(0)
        return [local.file for local in files]

    def tables(self, staged: Sequence[StagedFile], checks: "OutputChecks | None") -> Iterator[pa.Table]:
        for file in staged:
            for table in staged_tables(self.store, file):
                if checks is not None:
                    checks.see(table)
                self.note(table.num_rows)
                yield table

    def _write(
        self, schema: pa.Schema, tables: Iterator[pa.Table], kind: str, staged: Sequence[StagedFile]
    ) -> Iterator[Content]:
        """Write files of about TARGET_BYTES, with row groups of at most GROUP_ROWS or GROUP_BYTES."""
        declared = schema.with_metadata(self.footer)
        most = _INDEX_GROUP_ROWS if kind == "index" else GROUP_ROWS
        groups = map(methodcaller("cast", declared), row_groups(tables, schema, most))  # which holds none of them
        if sum(file.size for file in staged) <= HELD_BYTES:
            yield _in_memory(declared, groups, most)
        else:
            yield from self._on_disk(declared, groups, most, kind)

    def _on_disk(self, declared: pa.Schema, groups: Iterator[pa.Table], most: int, kind: str) -> Iterator[Path]:
        path, writer, number = self.folder / f"{kind}-0.parquet", None, 0
        for group in groups:
            if writer is None:
                path = self.folder / f"{kind}-{number}.parquet"
                writer = parquet_writer(path, declared)
            writer.write_table(group, row_group_size=most)
            del group
            pa.default_memory_pool().release_unused()  # else the pool keeps a group's memory for long
            if path.stat().st_size >= TARGET_BYTES and kind != "index":  # a manifest names one
                writer.close()
                yield path
                writer, number = None, number + 1
        if writer is None and number == 0:
            writer = parquet_writer(path, declared)
            writer.write_table(empty_table(declared))
        if writer is not None:
            writer.close()
            yield path

    def _named(self, folder: str, part: int, content: Content, time: str | None) -> LocalFile:
        if isinstance(content, bytes):
            size, sha256 = len(content), hashlib.sha256(content).hexdigest()
            rows = pq.read_metadata(pa.BufferReader(content)).num_rows
        else:
            size, sha256 = content.stat().st_size, file_sha256(content)
            rows = pq.read_metadata(content).num_rows
        low, high = time_range(content, time) if time and rows else (None, None)
        file = DataFile(
            key=ids.part_file(folder, part, self.generation, sha256), size=size, sha256=sha256, rows=rows,
            time_min=low, time_max=high,
        )  # fmt: skip
        return LocalFile(content, file)

    def _time_column(self) -> str | None:
        column = self.job.spec.partition.column
        if self.job.spec.partition.by != "time" or column not in self.job.columns.names:
            return None
        return column if pa.types.is_timestamp(self.job.columns.field(column).type) else None


def _in_memory(declared: pa.Schema, groups: Iterator[pa.Table], most: int) -> bytes:
    """Return a file of these row groups: the bytes that it would have on disk."""
    sink = pa.BufferOutputStream()
    with parquet_writer(sink, declared) as writer:
        for group in itertools.chain([next(groups, empty_table(declared))], groups):
            writer.write_table(group, row_group_size=most)
    return bytes(sink.getvalue())


def parquet_writer(path: Path | pa.NativeFile, schema: pa.Schema) -> pq.ParquetWriter:
    # Digests are all different: a dictionary of them, or their statistics, would be of no use.
    digests = any(pa.types.is_fixed_size_binary(field.type) for field in schema)
    plain = [field.name for field in schema if not pa.types.is_fixed_size_binary(field.type)] if digests else True
    return pq.ParquetWriter(
        path, schema, compression="zstd", use_dictionary=plain, write_page_index=True, write_statistics=plain
    )


def of_any_version(schema: pa.Schema, *tables: pa.Table) -> pa.Table:
    """Concatenate staged tables, some of an earlier version: a column that they do not have is null."""
    return pa.concat_tables([empty_table(schema), *tables], promote_options="default")


def row_groups(tables: Iterator[pa.Table], schema: pa.Schema, most: int = GROUP_ROWS) -> Iterator[pa.Table]:
    """Collect tables to the size of a row group, `most` rows, independent of the size of batches."""
    held: list[list[pa.Array]] = [[] for _ in schema]
    rows = size = 0
    for whole in tables:
        table = whole.select(schema.names).cast(schema)
        while table.num_rows:
            piece = table.slice(0, most - rows)
            table = table.slice(piece.num_rows)
            for chunks, column in zip(held, piece.columns, strict=True):
                chunks.extend(column.chunks)
            rows += piece.num_rows
            size += piece.nbytes
            if rows >= most or size >= GROUP_BYTES:
                yield _combine(held, schema)
                rows = size = 0
    if rows:
        yield _combine(held, schema)


def _combine(held: list[list[pa.Array]], schema: pa.Schema) -> pa.Table:
    """Combine the held chunks, column by column, and release them: a group is never in memory twice."""
    columns = []
    for chunks, field in zip(held, schema, strict=True):
        column = pa.table([pa.chunked_array(chunks, field.type)], names=[field.name])
        chunks.clear()
        column = column.combine_chunks()  # a table's: a column of more than 2 GB stays in several
        columns.append(column.column(0))
    return pa.Table.from_arrays(columns, schema=schema)


def time_range(content: Content, column: str) -> tuple[dt.datetime | None, dt.datetime | None]:
    found = pc.min_max(table_of(content, columns=[column])[column])
    low, high = found["min"].as_py(), found["max"].as_py()
    return low, high


def provenance_of(job: Job) -> list[Provenance]:
    return [stage.provenance for stage in job.stages]
