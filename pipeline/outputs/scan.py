"""Scan of a dataset: exactly the committed files; `pipeline.consume` is the public module.

A reader's files are found in history once a newer generation was published, for as many generations as
`sink.keep_generations` says; a slower reader gets GenerationSuperseded, and reads again.
"""

import itertools
import time
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as fs
from polars.io.plugins import register_io_source

from pipeline.outputs.reader import (
    CommittedPart,
    GenerationSuperseded,
    ReaderSchema,
    VersionsDiffer,
    batches,
    frames,
    parts_of,
    reader_schema,
)
from pipeline.outputs.superseded_files import SupersededFiles
from pipeline.sinks import commits
from pipeline.sinks.generations import locate
from pipeline.sinks.schema import key_values
from pipeline.stores import Store, open_store
from schemas import ids
from schemas.arrow_tables import empty_frame
from schemas.errors import TandemError, UsageError
from schemas.manifest import Manifest

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

__all__ = [
    "CommittedFile", "GenerationSuperseded", "VersionsDiffer", "dataset", "files", "head", "manifests", "partitions",
    "scan", "wait_for",
]  # fmt: skip
Sink = str | Path | Store


@dataclass(frozen=True)
class CommittedFile:
    """One object of the committed dataset. `path` is absolute, or `s3://…`."""

    partition: str
    generation: int
    path: str
    rows: int
    bytes: int


def _store(sink: Sink) -> Store:
    return open_store(str(sink)) if isinstance(sink, str | Path) else sink


def partitions(sink: Sink) -> dict[str, int]:
    """The current generation of each partition that ever committed."""
    found: dict[str, int] = {}
    for info in _store(sink).list(ids.COMMITS):
        parsed = ids.parse_commit(info.key)
        if parsed:
            found[parsed[0]] = max(found.get(parsed[0], 0), parsed[1])
    return dict(sorted(found.items()))


def manifests(sink: Sink, partition: str | None = None, *, generation: int | None = None) -> Iterator[Manifest]:
    """Yield the current manifests of published partitions, or the one of a generation of a partition."""
    store = _store(sink)
    if generation is not None:
        yield _of_generation(store, partition, generation)
        return
    if partition is not None:
        manifest = commits.current(store, partition)
        if manifest is not None and manifest.present:
            yield manifest
        return
    for key, current in partitions(store).items():
        manifest = commits.read_commit(store, key, current)
        if manifest is not None and manifest.present:
            yield manifest


def _of_generation(store: Store, partition: str | None, generation: int) -> Manifest:
    if partition is None:
        raise UsageError("A generation needs its partition: give both.")
    manifest = commits.read_commit(store, partition, generation)
    if manifest is None or not manifest.present:
        raise UsageError(f"{partition} has no generation {generation}.", hint="See: tandem outputs ls")
    gone = next((file.key for file in manifest.files if locate(store, file.key) is None), None)
    if gone is not None:
        raise GenerationSuperseded(
            f"Generation {generation} of {partition} was superseded, and {gone} removed.",
            hint="Read the current one; sink.keep_generations says how many earlier ones are kept.",
        )
    return manifest


def files(sink: Sink, partition: str | None = None, *, generation: int | None = None) -> list[CommittedFile]:
    """Return the exact objects of the committed dataset at their present paths, in order of partition."""
    store = _store(sink)
    present = {info.key for info in store.list(ids.data_folder(partition) if partition else "data/")}
    return [
        CommittedFile(
            m.partition, m.generation, f"{store.uri}/{_key_now(store, file.key, present)}", file.rows, file.size
        )
        for m in manifests(store, partition, generation=generation)
        for file in m.files
    ]


def _key_now(store: Store, key: str, present: Container[str]) -> str:
    """Return the present key of a file: its own, or one in history if it was replaced since its manifest was read."""
    return key if key in present else locate(store, key) or key


def parts(
    store: Store, partition: str | None = None, generation: int | None = None
) -> tuple[list[CommittedPart], ReaderSchema]:
    """Return the committed files and the schema to read them in. Raises TandemError if nothing is published."""
    found = list(manifests(store, partition, generation=generation))
    if not found:
        raise TandemError(f"{store.uri}: nothing is published.", hint="Run the pipeline first.")
    listed = [part for manifest in found for part in parts_of(store, manifest)]
    if generation is not None:
        listed = [replace(part, path=_key_now(store, part.key, ())) for part in listed]
    return listed, reader_schema(store, found)


def scan(sink: Sink, partition: str | None = None, *, generation: int | None = None) -> pl.LazyFrame:
    """Return a LazyFrame over the committed files, in the declared schema; the partition's keys are columns, typed.
    Later commits are not in it. Raises TandemError if nothing is published."""
    listed, shape = parts(_store(sink), partition, generation)
    schema = empty_frame(shape.schema).schema
    return register_io_source(partial(_frames, listed, shape), schema=schema)


def _frames(
    listed: list[CommittedPart],
    shape: ReaderSchema,
    columns: list[str] | None,
    predicate: pl.Expr | None,
    rows: int | None,
    batch_size: int | None,
) -> Iterator[pl.DataFrame]:
    for part in listed:
        for frame in frames(part, shape, columns, predicate, rows):
            yield frame
            if rows is not None:
                rows -= frame.height
                if rows <= 0:
                    return


def dataset(sink: Sink, partition: str | None = None, *, generation: int | None = None) -> "Dataset":
    """Return the same as an Arrow dataset: for pyarrow, DuckDB, pandas and other readers of one."""
    import pyarrow.dataset as ds  # it imports pandas where that is installed, half a second

    store = _store(sink)
    listed, shape = parts(store, partition, generation)
    form = ds.ParquetFileFormat()
    places = {part.store.arrow_path(part.path)[1]: part for part in listed}
    moving = fs.PyFileSystem(SupersededFiles(store.arrow_path("")[0], places))
    fragments = [
        form.make_fragment(path, moving, partition_expression=_expression(part, shape)) for path, part in places.items()
    ]
    return ds.FileSystemDataset(fragments, shape.schema, form, moving)


def _expression(part: CommittedPart, shape: ReaderSchema) -> pc.Expression:
    """Return the condition that all rows of a file fulfil: Arrow fills in the keys with it, and skips files."""
    found = None
    for name, value in key_values(part.partition, shape.keys):
        holds = pc.field(name) == value if value.is_valid else pc.field(name).is_null()
        found = holds if found is None else found & holds
    return found if found is not None else pc.scalar(True)


def head(sink: Sink, rows: int, partition: str | None = None) -> pl.DataFrame | None:
    """Return the first rows of the dataset, read from as few objects as needed; None if nothing is published."""
    store = _store(sink)
    found: list[pa.RecordBatch] = []
    shape = None
    for manifest in manifests(store, partition):
        shape = shape or reader_schema(store, [manifest])
        for part in parts_of(store, manifest):
            left = rows - sum(batch.num_rows for batch in found)
            found += itertools.islice(batches(part, shape, max(1, left)), 1)
            if sum(batch.num_rows for batch in found) >= rows:
                break
        else:
            continue
        break
    return pl.DataFrame(pa.Table.from_batches(found, shape.schema)) if shape else None


def wait_for(
    sink: Sink, partition: str, *, generation: int = 1, timeout_s: float = 3600, every_s: float = 5
) -> Manifest:
    """Wait until a partition is published whole, in this generation or a later one, and return its manifest. Raises
    TimeoutError."""
    store = _store(sink)
    until = time.monotonic() + timeout_s
    while True:
        manifest = commits.current(store, partition)
        if manifest is not None and manifest.whole and manifest.generation >= generation:
            return manifest
        if time.monotonic() >= until:
            raise TimeoutError(f"{partition} was not published within {timeout_s:g} s")
        time.sleep(every_s)


def how_to_read(sink: str, *, exactly: bool) -> str:
    """Return a line of Python that reads the dataset: with any Parquet reader, or `exactly` if files of other
    generations may be beside the current ones."""
    if exactly:
        return f'from pipeline.consume import scan; scan("{sink}").collect()'
    return f'import polars as pl; pl.read_parquet("{sink}/data/**/*.parquet", hive_partitioning=True)'
