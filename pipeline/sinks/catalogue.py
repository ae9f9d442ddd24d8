"""The catalogue: the published generation and the last outcome of every partition, as two Parquet indexes.

    _tandem/catalogue/commits-<time>-<digest>.parquet     the current manifest of each partition, without its files
    _tandem/catalogue/attempts-<time>-<digest>.parquet    the last outcome of each partition, in any run

Both are derived, and may be deleted or out of date. Commits and outcomes are the truth: a listing says which are newer,
and only those are read. Every run brings the catalogue up to date at its end.
"""

import datetime as dt
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.progress_note import Note, unnoted
from pipeline.sinks import commits, outcomes
from pipeline.stores import Store
from schemas import ids
from schemas.errors import ObjectMissing, StoreError
from schemas.manifest import Counts, DataFile, Manifest

FORMAT = "2"
_COMMITS = pl.Schema(
    [
        ("partition", pl.String()), ("generation", pl.Int64()), ("bytes", pl.Int64()), ("manifest", pl.String()),
        ("shape", pl.Categorical()),
    ]
)  # fmt: skip
EMPTY = pl.DataFrame(schema=_COMMITS)
_TEXTS = ("partition", "run", "outcome", "error", "message")
_ATTEMPTS = pl.Schema([*((name, pl.String()) for name in _TEXTS), ("at", pl.Datetime("us", "UTC"))])
# Fields that all partitions mostly share are kept once; those that lists do not need are read with the commit itself.
_SHAPE = {"format", "pipeline", "schema_fingerprint", "schema_version", "stage_fingerprints", "stage_aspects",
          "input_columns"}  # fmt: skip
_LEFT_OUT = {"files", "rejects", "provenance", "warnings", "checks", "content_digest", "reuse", "usage", "attempt",
             "nonce", "started_at"}  # fmt: skip
_KEPT = dt.timedelta(minutes=15)  # a reader may still be at an older index
_THREADS = 16
FEW = 20  # partitions whose commits are read themselves, so that a damaged one is seen
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Catalogue:
    """Both indexes, up to date: for a few partitions, or all."""

    published: pl.DataFrame
    attempts: pl.DataFrame


def read(store: Store, partitions: Iterable[str] | None = None, *, note: Note = unnoted) -> Catalogue:
    """Read both indexes: current generations and last outcomes. Raises StoreError."""
    return Catalogue(published(store, partitions, note=note), attempts(store, note=note))


# What is published --------------------------------------------------------------------------------------------------


def published(store: Store, partitions: Iterable[str] | None = None, *, note: Note = unnoted) -> pl.DataFrame:
    """The current generation of each partition that ever committed, for `manifests`, with some fields of its manifest
    as columns: `kind`, `run`, `input_fingerprint`, `index_key`, `pending` rows. Only commits that the index does not
    have are read. Raises StoreError."""
    few = set(partitions) if partitions is not None else None
    if few is not None and len(few) <= FEW:
        listed = {key: last for key in few if (last := max(commits.generations(store, key), default=0))}
        return _read_commits(store, sorted(listed.items()), note)
    known = _load(store, "commits", _COMMITS)[0]
    return _refreshed(store, known, note)


def indexed(store: Store) -> pl.DataFrame:
    """The index as the last run left it: one object is read, and nothing is listed. Raises StoreError."""
    return _load(store, "commits", _COMMITS)[0]


def _refreshed(store: Store, known: pl.DataFrame, note: Note) -> pl.DataFrame:
    decoded = _decoded(known.lazy()).collect(background=True)  # by threads of Polars, while folders are listed
    listed = _listed(store)
    try:
        kept = decoded.fetch_blocking().join(listed, on=["partition", "generation"], how="semi")
    except pl.exceptions.PolarsError:  # it is derived: commits are read instead
        kept = _decoded(EMPTY.lazy()).collect()
    newer = listed.join(kept, on="partition", how="anti")
    if newer.height:
        kept = pl.concat([kept, _read_commits(store, newer.rows(), note)])
    return kept.sort("partition")


def _listed(store: Store) -> pl.DataFrame:
    """The highest generation of each partition, in one listing."""
    keys = pl.Series("key", list(store.keys(ids.COMMITS)), pl.String)
    parsed = keys.str.extract_groups(ids.COMMIT_PATTERN).struct.unnest().drop_nulls()
    every = parsed.with_columns(pl.col("generation").cast(pl.Int64))
    return every.group_by("partition", maintain_order=True).agg(pl.col("generation").max())


def _read_commits(store: Store, generations: Iterable[tuple[str, int]], note: Note) -> pl.DataFrame:
    def read(one: tuple[str, int]) -> tuple[str, int, int, str, str] | None:
        manifest = commits.read_commit(store, *one)
        note(0)
        if manifest is None:
            return None
        size = sum(file.size for file in manifest.files)
        own = manifest.model_dump_json(exclude=_LEFT_OUT | _SHAPE, exclude_defaults=True)
        return manifest.partition, manifest.generation, size, own, manifest.model_dump_json(include=_SHAPE)

    rows = [row for row in _in_threads(read, list(generations)) if row is not None]
    return _decoded(pl.LazyFrame(rows, schema=_COMMITS, orient="row")).collect()


def _decoded(commits: pl.LazyFrame) -> pl.LazyFrame:
    """Add fields of the manifests as columns, for decisions on 100,000 partitions, of which most need no manifest."""
    own = pl.col("manifest").str.json_decode(_FACTS)
    return commits.with_columns(own.alias("own")).select(
        *_COMMITS,
        pl.col("own").struct.field("kind", "run", "input_fingerprint"),
        pl.col("own").struct.field("index").struct.field("key").alias("index_key"),
        pl.col("own").struct.field("counts").struct.field("pending").fill_null(0).alias("pending"),
    )  # fmt: skip


_FACTS = pl.Struct(
    {"kind": pl.String, "run": pl.String, "input_fingerprint": pl.String, "index": pl.Struct({"key": pl.String}),
     "counts": pl.Struct({"pending": pl.Int64})}
)  # fmt: skip


def of_shape(shape: str) -> Manifest:
    """Return a manifest of no partition, with the fields that those of one shape share."""
    return _of_shape(shape)


def manifests(published: pl.DataFrame) -> Iterator[Manifest]:
    """Yield the manifests of an index, without the fields that lists do not need."""
    for text, shape in published.select("manifest", "shape").iter_rows():
        manifest = manifest_of(text, shape)
        assert manifest is not None
        yield manifest


def manifest_of(text: str | None, shape: str | None) -> Manifest | None:
    """Return one manifest from its row; None for an absent one. It is not validated again, and copied from one that has
    the shape and all defaults: there may be 100,000."""
    if text is None or shape is None:
        return None
    own = orjson.loads(text)
    time = dt.datetime.fromisoformat(own.pop("committed_at"))
    index = own.pop("index", None)
    own["index"] = None if index is None else DataFile.model_construct(**index)
    own["pending"] = tuple(DataFile.model_construct(**file) for file in own.pop("pending", ()))
    own["counts"] = _NO_COUNTS.model_copy(update=own.pop("counts", {}))
    return _of_shape(shape).model_copy(update={**own, "started_at": time, "committed_at": time})


@lru_cache(maxsize=1_000)
def _of_shape(text: str) -> Manifest:
    """Return a manifest of no partition, with the fields that those of one shape share."""
    time = dt.datetime.min.replace(tzinfo=dt.UTC)
    own = {"kind": "published", "partition": "", "generation": 0, "parent": None, "run": "", "nonce": ""}
    return Manifest.model_validate({**orjson.loads(text), **own, "started_at": time, "committed_at": time})


_NO_COUNTS = Counts()


# How the last attempts ended ----------------------------------------------------------------------------------------


def attempts(store: Store, *, note: Note = unnoted) -> pl.DataFrame:
    """Return the last outcome of each partition, in any run. Raises StoreError."""
    return _attempts(store, note)[0]


def failed(ended: pl.DataFrame) -> dict[str, str]:
    """Partition → outcome as text, of those whose last attempt failed or was cancelled."""
    found = ended.filter(pl.col("outcome").is_in(["failed", "cancelled"])).select("partition", "outcome", "error")
    return {
        partition: "was cancelled" if outcome == "cancelled" else f"failed ({error})"
        for partition, outcome, error in found.iter_rows()
    }


def _attempts(store: Store, note: Note) -> tuple[pl.DataFrame, dict[str, str]]:
    """Return the attempts, and a mark for each run: the report that completed it, after which nothing of it changes, or
    else the time of its latest outcome, so that only later ones are read."""
    known, marks = _load(store, "attempts", _ATTEMPTS)
    frames = [known]
    now: dict[str, str] = {}
    for run in store.folders(ids.RUNS):
        report = _completed(store, run)
        if report and marks.get(run) == report:
            now[run] = report
            continue
        since = marks.get(run, "")
        since = "" if since.startswith(_REPORT) else since
        fresh = list(outcomes.ended(store, run, dt.datetime.fromisoformat(since) if since else None, note=note))
        now[run] = report or max((one.at.isoformat() for one in fresh), default=since)
        frames.append(_attempts_of(run, fresh))
    ended = pl.concat(frames).sort("at")
    return ended.unique("partition", keep="last", maintain_order=True).sort("partition"), now


_REPORT = "report "


def _completed(store: Store, run: str) -> str:
    """Return a mark that names the report of a completed run; "" for a run that may still change."""
    found = store.head(ids.report(run))
    if found is None:
        return ""
    try:
        state = orjson.loads(store.get(ids.report(run)))["state"]
    except (ObjectMissing, ValueError, KeyError):
        return ""
    return f"{_REPORT}{found.etag}" if state == "completed" else ""


def _attempts_of(run: str, ended: Iterable[outcomes.Ended]) -> pl.DataFrame:
    rows = [
        (one.result.partition, run, one.result.outcome, one.result.error, one.result.message, one.at)
        for one in ended
        if one.result.outcome != "not_run"  # a canary is no attempt
    ]
    return pl.DataFrame(rows, schema=_ATTEMPTS, orient="row")


# Bringing it up to date ---------------------------------------------------------------------------------------------


def update(store: Store, now: dt.datetime, *, note: Note = unnoted) -> None:
    """Write both indexes where there is anything newer, and remove older ones after a grace. Raises StoreError."""
    known = _load(store, "commits", _COMMITS)[0]
    current = _refreshed(store, known, note).select(*_COMMITS)
    if not current.equals(known):
        _save(store, "commits", current, {}, now)
    ended, marks = _attempts(store, note)
    if marks != _load(store, "attempts", _ATTEMPTS)[1]:
        _save(store, "attempts", ended, marks, now)


def _load(store: Store, kind: str, schema: pl.Schema) -> tuple[pl.DataFrame, dict[str, str]]:
    """The newest index of a kind; an empty one where there is none, or none that can be read."""
    for info in sorted(store.list(f"{ids.CATALOGUE}{kind}-"), key=lambda info: info.key, reverse=True):
        try:
            data = store.get(info.key)
            metadata = pq.read_schema(pa.BufferReader(data)).metadata or {}
            if metadata.get(b"tandem_catalogue") == FORMAT.encode():
                # By Polars: what pyarrow decodes with takes as much again, and stays with its pool.
                return pl.read_parquet(io.BytesIO(data)).cast(schema), orjson.loads(metadata[b"marks"])
        except (StoreError, OSError, pa.ArrowException, pl.exceptions.PolarsError, KeyError, ValueError):
            continue  # it is derived: commits and outcomes are read instead
    return pl.DataFrame(schema=schema), {}


def _save(store: Store, kind: str, frame: pl.DataFrame, marks: dict[str, str], now: dt.datetime) -> None:
    metadata = {b"tandem_catalogue": FORMAT.encode(), b"marks": orjson.dumps(marks)}
    sink = io.BytesIO()
    table = frame.to_arrow()
    pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd", row_group_size=20_000)
    data = sink.getvalue()
    key = ids.catalogue(kind, now, hashlib.sha256(data).hexdigest())
    store.put_absent(key, data)
    old = [info.key for info in store.list(f"{ids.CATALOGUE}{kind}-") if info.modified < now - _KEPT and info.key < key]
    store.delete(old)


def _in_threads(work: Callable[[T], U], items: list[T]) -> Iterator[U]:
    if len(items) < 2:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="tandem-catalogue") as threads:
        yield from threads.map(work, items)
