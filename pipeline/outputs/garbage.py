"""Garbage: objects that no manifest needs, that are older than a given age, and that no open run may still need.

    superseded   parts of earlier generations in data/    orphaned    parts that no generation names
    history      parts beyond the generations to keep
    staging      files that batches staged                snapshots   inputs that were split for plans of closed runs
    uploads      rests of interrupted writes              probes      objects that `check` could not remove

Superseded parts of a generation that is to be kept move to history. Commits, journals, reports and files with foreign
names are never touched. A run is closed once its last plan is older than its report: an open one may be resumed at any
time, so its partitions and its snapshot stay. Open runs are listed once more right before anything is removed.
"""

import contextlib
import datetime as dt
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.runs import plan_pages
from pipeline.sinks import commits, generations
from pipeline.sinks.generations import Retention
from pipeline.stores import ObjectInfo, Store, Upload
from schemas import ids
from schemas.errors import ObjectMissing
from schemas.manifest import named

# The runs distinguish an abandoned publication from one under way; this is for one whose run was just closed.
UNCOMMITTED = dt.timedelta(hours=1)


@dataclass(frozen=True)
class GarbageObject:
    """One object that may be removed. An open run keeps it by its `partition` or `snapshot`; `history` is its new key,
    if it is to be kept."""

    kind: str
    key: str
    size: int
    partition: str = ""
    snapshot: str = ""
    history: str = ""


@dataclass
class InUse:
    """Partitions and snapshots that open runs may still need."""

    runs: set[str] = field(default_factory=set)
    partitions: set[str] = field(default_factory=set)
    snapshots: set[str] = field(default_factory=set)
    everything: bool = False  # a run that has not planned yet may need any of it

    def holds(self, item: GarbageObject) -> bool:
        if item.kind in ("superseded", "history", "uploads", "probes"):
            return False
        if item.kind == "snapshots":
            return self.everything or item.snapshot in self.snapshots
        return self.everything or item.partition in self.partitions


@dataclass
class Garbage:
    """Objects that may be removed, and the number that open runs keep."""

    objects: list[GarbageObject]
    uploads: list[Upload]
    in_use: InUse
    kept: int = 0


def find(
    store: Store, partition: str | None = None, *, older_than: dt.timedelta, retention: Retention, now: dt.datetime
) -> Garbage:
    """Find all objects that may be removed, or those of one partition. Reads only."""
    before = now - older_than
    uploads = list(store.stale_uploads(before)) if partition is None else []
    objects = [
        *_parts(store, min(before, now - retention.stay), min(before, now - UNCOMMITTED), retention.generations),
        *_staging(store, min(before, now - UNCOMMITTED)),
        *_snapshots(store, before),
        *(
            GarbageObject("probes", info.key, info.size)
            for info in store.list(f"{ids.TANDEM}/probe/")
            if info.modified <= before
        ),
        *(GarbageObject("uploads", upload.key, 0) for upload in uploads),
    ]
    if partition is not None:
        objects = [one for one in objects if one.partition == partition]
    in_use = open_runs(store)
    removable = [one for one in objects if not in_use.holds(one)]
    return Garbage(removable, uploads, in_use, len(objects) - len(removable))


def remove(store: Store, found: Garbage) -> list[GarbageObject]:
    """Remove the found objects, except those that a run opened meanwhile may need. Returns the removed ones."""
    in_use = open_runs(store)
    removable = [one for one in found.objects if not in_use.holds(one)]
    # The description of a snapshot goes first: without it a concurrent reader finds no snapshot.
    removable.sort(key=lambda one: not one.key.endswith("/snapshot.json"))
    for one in removable:
        if one.history:
            with contextlib.suppress(ObjectMissing):  # moved by another process
                store.copy(one.key, one.history)
    store.delete(one.key for one in removable if one.kind != "uploads")
    store.abort_uploads(found.uploads)
    return removable


def open_runs(store: Store) -> InUse:
    in_use = InUse()
    for run in store.folders(ids.RUNS):
        if plan_pages.is_closed(store, run) or store.head(ids.request(run)) is None:
            continue
        last = plan_pages.latest_plan(store, run)
        in_use.runs.add(run)
        in_use.partitions |= plan_pages.planned_partitions(store, run) or set()
        if last is None:
            in_use.everything = True
        else:
            in_use.snapshots.add(last.snapshot)
    return in_use


# Kinds -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """A part with a name of ours; `key` is its key in manifests, in data or in history."""

    info: ObjectInfo
    generation: int
    key: str


def _parts(store: Store, superseded: dt.datetime, uncommitted: dt.datetime, keep: int) -> Iterator[GarbageObject]:
    """Yield parts that neither the current generation names nor, in history, one that is kept. The listing comes first,
    so that later commits only add to the kept parts."""
    by_partition = defaultdict(list)
    for partition, part in _listed_parts(store):
        by_partition[partition].append(part)
    for partition, listed in by_partition.items():
        if store.head(ids.lagging(partition)) is None:  # else a table still sends its readers to earlier files
            yield from _parts_of(store, partition, listed, superseded, uncommitted, keep)


def _parts_of(
    store: Store, partition: str, listed: list[_Part], superseded: dt.datetime, uncommitted: dt.datetime, keep: int
) -> Iterator[GarbageObject]:
    since = {
        parsed[1]: info.modified
        for info in store.list(ids.commits_of(partition))
        if (parsed := ids.parse_commit(info.key)) is not None and parsed[0] == partition
    }
    newest = max(since, default=0)
    manifest = commits.read_commit(store, partition, newest) if newest else None
    current = named(manifest)
    kept = set[str]().union(*(named(one) for one in generations.earlier(store, manifest, keep))) if manifest else set()
    for part in listed:
        info = part.info
        if part.key in current or (part.key in kept and ids.history(part.key) == info.key):
            continue
        if part.generation > newest:
            if info.modified <= uncommitted:
                yield GarbageObject("orphaned", info.key, info.size, partition)
        elif info.key.startswith(ids.HISTORY):
            if info.modified <= superseded:
                yield GarbageObject("history", info.key, info.size, partition)
        elif max(info.modified, since.get(part.generation + 1, info.modified)) <= superseded:
            kind = "superseded" if part.generation < newest else "orphaned"
            history = ids.history(part.key) if part.key in kept else ""
            yield GarbageObject(kind, info.key, info.size, partition, history=history)


def _listed_parts(store: Store) -> Iterator[tuple[str, _Part]]:
    homes = ("data/", "rejects/", f"{ids.TANDEM}/index/", f"{ids.TANDEM}/pending/")
    for prefix in (*homes, ids.HISTORY):
        for info in store.list(prefix):
            folder, _, name = info.key.rpartition("/")
            generation = ids.parse_part(f"{folder}/", info.key)
            if generation is None or "=" not in folder:
                continue
            partition, home = folder.removeprefix(prefix), prefix
            if prefix == ids.HISTORY:
                home = "rejects/" if partition.endswith("/rejects") else "data/"
                partition = partition.removesuffix("/rejects")
            yield partition, _Part(info, generation, f"{home}{partition}/{name}")


def _staging(store: Store, before: dt.datetime) -> Iterator[GarbageObject]:
    """Yield staged files a folder at a time, by its newest object: its workflow may still write to it."""
    folders = defaultdict(list)
    for info in store.list(ids.STAGING):
        folders[info.key.rpartition("/")[0]].append(info)
    for folder, inside in folders.items():
        if max(info.modified for info in inside) <= before:
            partition = folder.removeprefix(ids.STAGING).rpartition("/")[0]
            yield from (GarbageObject("staging", info.key, info.size, partition) for info in inside)


def _snapshots(store: Store, before: dt.datetime) -> Iterator[GarbageObject]:
    """Yield all snapshots but the newest, which the next run over an unchanged input uses again."""
    folders = defaultdict(list)
    for info in store.list(ids.SNAPSHOTS):
        folders[ids.snapshot_folder(info.key.removeprefix(ids.SNAPSHOTS).partition("/")[0])].append(info)
    ages = {folder: max(info.modified for info in inside) for folder, inside in folders.items()}
    newest = max(ages, key=lambda folder: ages[folder], default="")
    last_planned = _last_planned(store)
    for folder, inside in folders.items():
        key = f"{folder}snapshot.json"
        if folder != newest and key != last_planned and ages[folder] <= before:
            yield from (GarbageObject("snapshots", info.key, info.size, snapshot=key) for info in inside)


def _last_planned(store: Store) -> str:
    last = [plan for run in store.folders(ids.RUNS) if (plan := plan_pages.latest_plan(store, run)) is not None]
    return max(last, key=lambda plan: plan.created_at).snapshot if last else ""
