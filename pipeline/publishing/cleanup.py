"""After a commit: former files leave `data/`, the journal is compacted. Readers by manifest depend on neither."""

import asyncio
import contextlib
import datetime as dt
import logging
import uuid
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.journal import compaction
from pipeline.journal.answers import coverage
from pipeline.journal.answers.coverage import NewRecords
from pipeline.journal.compaction import InUse
from pipeline.planning.job import Job
from pipeline.runs.plan_pages import is_closed
from pipeline.runs.requests import load_request
from pipeline.settings import expanded
from pipeline.sinks import commits, generations
from pipeline.sinks.generations import Mark
from pipeline.sinks.row_files import in_hexadecimal
from pipeline.sinks.table_formats import follow
from pipeline.stores import Store
from pipeline.stores.parquet import batches_of
from schemas import ids
from schemas.errors import StoreError, TandemError
from schemas.manifest import Manifest
from schemas.spec.sections import Spec
from stages.contract import graph_stages

log = logging.getLogger("tandem.publishing")
_READ_ROWS = 65_536
EVERY = dt.timedelta(seconds=30)


Index = Callable[[Store, Sequence[NewRecords]], None]


def after_commit(
    job: Job, store: Store, manifest: Manifest, now: dt.datetime, small: Index = coverage.add_commits
) -> None:
    """Settle the partition's files, then index its answers and compact its journal. `small` indexes those of a journal
    that need not be compacted. After a failure the next sweep, or run, does it."""
    generations.settle_marked(store, manifest, generations.retention_of(job.spec.sink), now)

    def index(add: Index, keys: pl.Series) -> None:
        add(store, [NewRecords(manifest.partition, manifest.generation, manifest.parent, keys)])

    compaction.compact_if_large(
        store, manifest.partition, now, partial(_in_use, job, store, manifest), partial(index, coverage.add_commits),
        partial(index, small),
    )  # fmt: skip


def _in_use(job: Job, store: Store, manifest: Manifest) -> InUse:
    stages = frozenset(stage.fingerprint for stage in graph_stages(job.stages))
    rows = _index_ids(store, manifest.index.key) if manifest.index is not None else pl.Series([], dtype=pl.String)
    return InUse(rows, stages, job.spec.journal.keep)


def remove_staged(store: Store, opened: str, folder: str) -> None:
    """Remove what was staged for a partition, once it is published. `opened`, the key by which it is found, goes first:
    an attempt that finds it finds the rest."""
    store.delete([opened])
    store.delete([info.key for info in store.list(folder)])


def catch_up(store: Store, spec: Spec, base: Path) -> None:
    """Bring the table of a sink, if any, to the committed state. Raises StoreError."""
    if next(iter(store.list(ids.LAGGING)), None) is None:
        return
    lake = follow.lake_of(expanded(spec), base, store)
    if lake is not None:
        with contextlib.closing(lake):
            follow.catch_up(lake, store)


def sweep(store: Store, now: dt.datetime, *, ended: str = "") -> dt.datetime | None:
    """Settle every marked partition: each command that publishes does so at its start, each run at its end. `ended` is
    a run that does not work any more. Returns the time when the next files are due."""
    due = [_settle_mark(store, mark, now, ended) for mark in generations.marks(store)]
    return min((one for one in due if one is not None), default=None)


def try_to_sweep(store: Store) -> None:
    """Sweep, and log errors instead of raising them: the caller's own work goes on."""
    try:
        sweep(store, dt.datetime.now(dt.UTC))
    except (TandemError, OSError) as exc:
        log.warning("%s: files of earlier publications in data/ are not removed yet: %s", store.uri, exc)


async def sweep_periodically(stores: Callable[[], Iterable[Store]], every: dt.timedelta = EVERY) -> None:
    """Sweep the sinks that a process knows, regularly, until cancelled."""
    while True:
        await asyncio.sleep(every.total_seconds())
        for store in stores():
            await asyncio.to_thread(try_to_sweep, store)


def _settle_mark(store: Store, mark: Mark, now: dt.datetime, ended: str) -> dt.datetime | None:
    manifest = commits.current(store, mark.partition)
    if manifest is None or manifest.generation < mark.generation:
        manifest = _fence_abandoned(store, mark, manifest, ended)
        if manifest is None:
            return None  # a publication is under way, or nothing of it is visible
    due = generations.settle(store, manifest, mark.retention, now)
    if due is None:
        store.delete([mark.key])
    return due


def _fence_abandoned(store: Store, mark: Mark, current: Manifest | None, ended: str) -> Manifest | None:
    """Fence a publication that was uploaded and not committed, once its run is closed: its worker may be frozen instead
    of dead, and must not commit files that will be removed. Returns the tombstone."""
    if not generations.uncommitted(store, mark.partition, current.generation if current else 0):
        return None
    if not mark.run:
        return None
    request = load_request(store, mark.run)  # a rollback has none: it takes a moment, and can be repeated
    if request is not None and mark.run != ended and not is_closed(store, mark.run):
        return None
    pipeline = request.pipeline if request is not None else current.pipeline if current is not None else ""
    base = current.generation if current is not None else 0
    commits.fence(store, mark.partition, run=mark.run, pipeline=pipeline, nonce=uuid.uuid4().hex, base=base)
    return commits.current(store, mark.partition)


def _index_ids(store: Store, key: str) -> pl.Series:
    """Return the identities of the rows that went through the stages: only they have answers in use."""
    found = [pl.Series("row_id", [], pl.String)]
    try:
        with store.open_input(key) as source, pq.ParquetFile(source) as parquet:
            for batch in batches_of(parquet, _READ_ROWS, ["row_id", "content"]):
                found.append(in_hexadecimal(batch.column("row_id").filter(batch.column("content").is_valid())))
    except (StoreError, OSError, pa.ArrowException):
        return found[0]
    return pl.concat([ids.alias("row_id") for ids in found])
