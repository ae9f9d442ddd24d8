"""After a commit: compact the journal, remove what was superseded. Nothing depends on it having happened."""

import contextlib
import datetime as dt
from pathlib import Path

import orjson
import polars as pl

from pipeline.journal import compaction
from pipeline.journal.compaction import InUse
from pipeline.planning.job import Job
from pipeline.settings import expanded
from pipeline.sinks import commits
from pipeline.sinks.table_formats import follow
from pipeline.stores import Store
from pipeline.stores.parquet import table_of
from schemas import ids
from schemas.errors import StoreError
from schemas.manifest import Manifest, named
from schemas.spec.sections import Spec
from stages.contract import graph_stages


def after_commit(job: Job, store: Store, manifest: Manifest, now: dt.datetime) -> None:
    """Compact the journal and remove what the commit superseded. Nothing depends on it having happened."""
    in_use = _in_use(job, store, manifest)
    compaction.compact(store, manifest.partition, now, in_use)
    keep = job.spec.sink.keep_superseded
    if _remove_superseded(store, manifest, now - keep):
        store.put(ids.superseded(manifest.partition), orjson.dumps({"keep_s": keep.total_seconds()}))


def _in_use(job: Job, store: Store, manifest: Manifest) -> InUse:
    stages = frozenset(stage.fingerprint for stage in graph_stages(job.stages))
    rows = _index_ids(store, manifest.index.key) if manifest.index is not None else pl.Series([], dtype=pl.String)
    return InUse(rows, stages, job.spec.journal.keep)


def catch_up(store: Store, spec: Spec, base: Path) -> None:
    """Bring the table of a sink that has one up to what is committed. Raises StoreError."""
    if next(iter(store.list(ids.LAGGING)), None) is None:
        return
    lake = follow.lake_of(expanded(spec), base, store)
    if lake is not None:
        with contextlib.closing(lake):
            follow.catch_up(lake, store)


def sweep_superseded(store: Store, now: dt.datetime) -> None:
    """Remove superseded files that are due, of all partitions: every run does so at its end."""
    for info in list(store.list(ids.SUPERSEDED)):
        partition = info.key.removeprefix(ids.SUPERSEDED).removesuffix(".json")
        marker = orjson.loads(store.get(info.key))
        manifest = commits.current(store, partition)
        before = now - dt.timedelta(seconds=marker["keep_s"])
        if manifest is None or not _remove_superseded(store, manifest, before):
            store.delete([info.key])


def _index_ids(store: Store, key: str) -> pl.Series:
    try:
        with store.open_input(key) as source:
            return pl.DataFrame(table_of(source, columns=["row_id"]))["row_id"]
    except (StoreError, OSError):
        return pl.Series("row_id", [], pl.String)


def _remove_superseded(store: Store, manifest: Manifest, before: dt.datetime) -> int:
    """Files of earlier generations, and those that lost the race for this one, once the generation after theirs has
    been there since `before`: a reader of the old one has had its time, however old the file itself is. Returns how
    many are left to a later sweep."""
    left = 0
    partition = manifest.partition
    if store.head(ids.lagging(partition)) is not None:
        return 1  # the table's readers are still sent to the old ones
    kept = named(manifest)
    committed = {
        parsed[1]: info.modified
        for info in store.list(ids.commits_of(partition))
        if (parsed := ids.parse_commit(info.key)) is not None and parsed[0] == partition
    }
    folders = (ids.data_folder, ids.rejects_folder, ids.pending_folder, ids.index_folder)
    for folder in (of(partition) for of in folders):
        old = []
        for info in store.list(folder):
            generation = ids.parse_part(folder, info.key)
            if info.key in kept or generation is None or generation > manifest.generation:
                continue
            if max(info.modified, committed.get(generation + 1, info.modified)) <= before:
                old.append(info.key)
            else:
                left += 1
        store.delete(old)
    return left
