"""One committed file in the readers' schema: the dataset's declared columns, and the partition's keys with their types.

A column that a file does not have, as it was published before the column was added, is null throughout. A file that a
later generation has replaced is read on from history; once it is gone from there too, that is GenerationSuperseded.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.sinks.generations import locate
from pipeline.sinks.schema import column_change, key_schema, key_values, load_schema
from pipeline.stores import Store
from pipeline.stores.parquet import batches_of
from schemas.errors import TandemError
from schemas.manifest import Manifest
from schemas.plan import REPUBLISH
from schemas.tables import decode_schema, stored_schema

_SLICE = 1_000_000


class GenerationSuperseded(TandemError):
    """Files of this generation were removed while it was being read; read the current one."""


class VersionsDiffer(TandemError):
    """Partitions were published under incompatible versions of the schema."""


@dataclass(frozen=True)
class ReaderSchema:
    """The schema of every file: `columns` of the files, then `keys` of the paths."""

    columns: pa.Schema
    keys: pa.Schema

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([*self.columns, *self.keys])


@dataclass(frozen=True)
class CommittedPart:
    """One committed file: `key` in its manifest, `path` the key of its present place."""

    store: Store
    partition: str
    key: str
    rows: int
    path: str


def parts_of(store: Store, manifest: Manifest) -> list[CommittedPart]:
    return [CommittedPart(store, manifest.partition, file.key, file.rows, file.key) for file in manifest.files]


def reader_schema(store: Store, manifests: Sequence[Manifest]) -> ReaderSchema:
    """Return the declared schema, or that of the files where all have the same former columns. Raises VersionsDiffer if
    some have former columns and others the present ones."""
    declared = load_schema(store)
    if declared is None:
        raise TandemError(f"{store.uri}: nothing is published.", hint="Run the pipeline first.")
    change = column_change(declared)
    old = [manifest for manifest in manifests if change.outdates(manifest)]
    if not old:
        return ReaderSchema(decode_schema(declared.arrow_schema), key_schema(declared))
    if len({manifest.schema_fingerprint for manifest in manifests}) == 1:
        return ReaderSchema(_columns_of(store, old[0]), key_schema(declared))
    raise VersionsDiffer(
        f"{store.uri}: {len(old)} of {len(manifests)} partition(s), the first is {old[0].partition}, have a schema "
        f"older than version {change.since}, which is incompatible with it: {change.text}.",
        hint=f"Publish them again, from the journal: {REPUBLISH}; retire those that are gone from the source: "
        "tandem run --prune. Until then read partition by partition.",
    )


def _columns_of(store: Store, manifest: Manifest) -> pa.Schema:
    """Return the columns of a generation's files. Raises GenerationSuperseded where they are gone."""
    key = manifest.files[0].key
    path = locate(store, key)
    if path is None:
        raise superseded(store, key)
    with store.open_input(path) as source:
        return stored_schema(pq.read_schema(source)).remove_metadata()


def _relocated(part: CommittedPart, exc: Exception) -> CommittedPart:
    """Find the file again, after reading it failed. Raises GenerationSuperseded if it is gone, and the read's error if
    it has not moved."""
    path = locate(part.store, part.key)
    if path is None:
        raise superseded(part.store, part.key) from exc
    if path != part.path:
        return replace(part, path=path)
    if isinstance(exc, pa.ArrowException | OSError | pl.exceptions.ComputeError):
        raise TandemError(
            f"{part.store.uri}/{path} cannot be read ({type(exc).__name__}).",
            hint="See the damage with tandem outputs verify; tandem outputs repair publishes the partition again.",
        ) from exc
    raise exc


def superseded(store: Store, key: str) -> GenerationSuperseded:
    """Return the error of a file that is in no place any more."""
    return GenerationSuperseded(f"{store.uri}/{key} was superseded and removed.", hint="Read again.")


# Arrow -------------------------------------------------------------------------------------------------------------


def batches(part: CommittedPart, shape: ReaderSchema, rows: int = 65_536) -> Iterator[pa.RecordBatch]:
    """Yield a file in this schema, some rows at a time; reading continues if it is moved meanwhile."""
    values = dict(key_values(part.partition, shape.keys))
    done = 0
    while True:
        try:
            with part.store.open_input(part.path) as source, pq.ParquetFile(source) as parquet:
                for batch in itertools.islice(batches_of(parquet, rows), done, None):
                    yield _shaped(batch, shape, values)
                    done += 1
            return
        except Exception as exc:  # noqa: BLE001  each library says in its own way that a file is gone
            part = _relocated(part, exc)


def _shaped(batch: pa.RecordBatch, shape: ReaderSchema, values: dict[str, pa.Scalar]) -> pa.RecordBatch:
    present = dict(zip(batch.schema.names, batch.columns, strict=True))
    columns = []
    for field in shape.schema:
        if field.name in present:
            columns.append(present[field.name])
        elif field.name in values:
            columns.append(pa.repeat(values[field.name], batch.num_rows))
        else:
            columns.append(pa.nulls(batch.num_rows, field.type))
    return pa.RecordBatch.from_arrays(columns, schema=shape.schema)


# Polars ------------------------------------------------------------------------------------------------------------


def frames(
    part: CommittedPart, shape: ReaderSchema, columns: list[str] | None, predicate: pl.Expr | None, rows: int | None
) -> Iterator[pl.DataFrame]:
    """Yield a file for Polars' scan. Projection and predicate are pushed down; a long file comes in slices."""
    literals: list[pl.Expr] | None = None
    for start in range(0, max(1, part.rows), _SLICE):
        while True:
            try:
                scanned = _scanned(part)
                if literals is None:
                    literals = _literals(part, shape, scanned.collect_schema().names())
                piece = scanned if part.rows <= _SLICE else scanned.slice(start, _SLICE)
                piece = piece.with_columns(literals).select(shape.schema.names)
                if predicate is not None:
                    piece = piece.filter(predicate)
                if columns is not None:
                    piece = piece.select(columns)
                frame = (piece if rows is None else piece.head(rows)).collect()
                break
            except Exception as exc:  # noqa: BLE001  each library says in its own way that a file is gone
                part = _relocated(part, exc)
        yield frame


def window(
    part: CommittedPart, shape: ReaderSchema, start: int, rows: int, columns: Sequence[str] | None = None
) -> pl.DataFrame:
    """Return rows of a file from the number `start` on, for a page of them."""
    names = shape.schema.names if columns is None else list(columns)
    while True:
        try:
            scanned = _scanned(part)
            literals = _literals(part, shape, scanned.collect_schema().names())
            return scanned.slice(start, rows).with_columns(literals).select(names).collect()
        except Exception as exc:  # noqa: BLE001  each library says in its own way that a file is gone
            part = _relocated(part, exc)


def _scanned(part: CommittedPart) -> pl.LazyFrame:
    path, options = part.store.polars_path(part.path)
    return pl.scan_parquet(path, storage_options=options, glob=False, hive_partitioning=False)


def _literals(part: CommittedPart, shape: ReaderSchema, present: Sequence[str]) -> list[pl.Expr]:
    """Return the columns that the file does not have: later ones, and the keys of its path."""
    absent = [(field.name, pa.scalar(None, field.type)) for field in shape.columns if field.name not in present]
    values = [*absent, *key_values(part.partition, shape.keys)]
    return [pl.lit(pl.Series(name, pa.array([value], value.type))).first().alias(name) for name, value in values]
