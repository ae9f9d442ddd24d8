"""For readers of a dataset: only committed files, exactly. `from pipeline.consume import scan, files, wait_for`."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from pipeline import commit as commits
from pipeline.stores import Store, open_store
from schemas import ids
from schemas.errors import ObjectMissing, TandemError
from schemas.manifest import DataFile, Manifest


class GenerationSuperseded(TandemError):
    """Files of this generation were removed while it was being read; read the current one."""


@dataclass(frozen=True)
class CommittedFile:
    """One object of the committed dataset. `path` is absolute, or `s3://…`."""

    partition: str
    generation: int
    path: str
    rows: int
    bytes: int


def _store(sink: str | Path | Store) -> Store:
    return open_store(str(sink)) if isinstance(sink, str | Path) else sink


def partitions(sink: str | Path | Store) -> dict[str, int]:
    """The current generation of each partition that ever committed."""
    found: dict[str, int] = {}
    for info in _store(sink).list(ids.COMMITS):
        parsed = ids.parse_commit(info.key)
        if parsed:
            found[parsed[0]] = max(found.get(parsed[0], 0), parsed[1])
    return dict(sorted(found.items()))


def manifests(sink: str | Path | Store, partition: str | None = None) -> Iterator[Manifest]:
    """The current manifests, of published partitions only."""
    store = _store(sink)
    for key, generation in partitions(store).items():
        if partition in (None, key):
            manifest = commits.read_commit(store, key, generation)
            if manifest is not None and manifest.ever_published:
                yield manifest


def files(sink: str | Path | Store, partition: str | None = None) -> list[CommittedFile]:
    """The exact objects of the committed dataset, in order of partition."""
    store = _store(sink)
    return [
        CommittedFile(m.partition, m.generation, f"{store.uri}/{file.key}", file.rows, file.size)
        for m in manifests(store, partition)
        for file in m.files
    ]


def scan(sink: str | Path | Store, partition: str | None = None) -> pl.LazyFrame:
    """A LazyFrame over the committed files; the partition keys are columns. Raises TandemError where nothing is
    published."""
    store = _store(sink)
    frames = []
    for manifest in manifests(store, partition):
        keys = dict(ids.parse_partition_key(manifest.partition))
        for file in manifest.files:
            path, options = store.polars_path(file.key)
            frame = pl.scan_parquet(path, storage_options=options, glob=False, hive_partitioning=False)
            frames.append(frame.with_columns(pl.lit(value, pl.String).alias(name) for name, value in keys.items()))
    if not frames:
        raise TandemError(f"{store.uri}: nothing is published.", hint="Run the pipeline first.")
    return pl.concat(frames, how="diagonal_relaxed")


def head(sink: str | Path | Store, rows: int, partition: str | None = None) -> pl.DataFrame | None:
    """The first rows of the dataset, read from as few objects as they take."""
    store = _store(sink)
    parts: list[pl.DataFrame] = []
    left = rows
    for manifest in manifests(store, partition):
        keys = dict(ids.parse_partition_key(manifest.partition))
        for file in manifest.files:
            part = _first_rows(store, file, left).with_columns(
                pl.lit(value, pl.String).alias(name) for name, value in keys.items()
            )
            parts.append(part)
            left -= part.height
            if left <= 0:
                return pl.concat(parts, how="diagonal_relaxed")
    return pl.concat(parts, how="diagonal_relaxed") if parts else None


def _first_rows(store: Store, file: DataFile, rows: int) -> pl.DataFrame:
    try:
        with store.open_input(file.key) as source, pq.ParquetFile(source) as parquet:
            batch = next(parquet.iter_batches(batch_size=max(1, rows)), None)
            return pl.DataFrame(batch if batch is not None else parquet.schema_arrow.empty_table())
    except (ObjectMissing, FileNotFoundError):
        raise GenerationSuperseded(f"{store.uri}/{file.key} was superseded and removed.", hint="Read again.") from None


def wait_for(sink: str | Path | Store, partition: str, *, timeout_s: float = 3600, every_s: float = 5) -> Manifest:
    """The manifest of a partition, once it is published. Raises TimeoutError."""
    store = _store(sink)
    until = time.monotonic() + timeout_s
    while True:
        manifest = commits.current(store, partition)
        if manifest is not None and manifest.kind == "published":
            return manifest
        if time.monotonic() >= until:
            raise TimeoutError(f"{partition} was not published within {timeout_s:g} s")
        time.sleep(every_s)


def how_to_read(sink: str, *, republished: bool) -> str:
    """A line of Python that reads the dataset: with any Parquet reader, and exactly where earlier generations may still
    lie beside the current one."""
    if republished:
        return f'from pipeline.consume import scan; scan("{sink}").collect()'
    return f'import polars as pl; pl.read_parquet("{sink}/data/**/*.parquet", hive_partitioning=True)'
