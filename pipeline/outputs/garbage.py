"""What may go: objects that no manifest needs, that are older than a rule, and that no open run may still want.

    superseded   parts of earlier generations in data/    orphaned    parts that no generation names
    history      those of more than are to be kept
    staging      what batches staged for a publication    snapshots   inputs that were split for plans of closed runs
    uploads      what interrupted writes left             probes      what `check` could not remove

Superseded parts of a generation that is to be kept move to history. Commits, journals, reports and whatever is not
named as ours are never touched. A run is closed once its last plan is
older than its report: an open one may be carried on at any time, so its partitions and its snapshot stay. What is
open is looked at once more right before anything is removed.
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

# A publication that was given up is told from one under way by the runs; this is for one whose run was just closed.
UNCOMMITTED = dt.timedelta(hours=1)


@dataclass(frozen=True)
class Litter:
    """One object that may go. `partition` and `snapshot` are what an open run would hold it by; `history` is where it
    goes, if it is to be kept."""

    kind: str
    key: str
    size: int
    partition: str = ""
    snapshot: str = ""
    history: str = ""


@dataclass
class InUse:
    """What open runs may still want."""

    runs: set[str] = field(default_factory=set)
    partitions: set[str] = field(default_factory=set)
    snapshots: set[str] = field(default_factory=set)
    everything: bool = False  # a run that has not planned yet may want any of it

    def holds(self, litter: Litter) -> bool:
        if litter.kind in ("superseded", "history", "uploads", "probes"):
            return False
        if litter.kind == "snapshots":
            return self.everything or litter.snapshot in self.snapshots
        return self.everything or litter.partition in self.partitions


@dataclass
class Garbage:
    """What may go, and what open runs keep from it."""

    litter: list[Litter]
    uploads: list[Upload]
    held: InUse
    kept: int = 0


def find(
    store: Store, partition: str | None = None, *, older_than: dt.timedelta, retention: Retention, now: dt.datetime
) -> Garbage:
    """Everything that may go, or what is one partition's. Reads only."""
    before = now - older_than
    uploads = list(store.stale_uploads(before)) if partition is None else []
    litter = [
        *_parts(store, min(before, now - retention.stay), min(before, now - UNCOMMITTED), retention.generations),
        *_staging(store, min(before, now - UNCOMMITTED)),
        *_snapshots(store, before),
        *(
            Litter("probes", info.key, info.size)
            for info in store.list(f"{ids.TANDEM}/probe/")
            if info.modified <= before
        ),
        *(Litter("uploads", upload.key, 0) for upload in uploads),
    ]
    if partition is not None:
        litter = [one for one in litter if one.partition == partition]
    held = open_runs(store)
    wanted = [one for one in litter if not held.holds(one)]
    return Garbage(wanted, uploads, held, len(litter) - len(wanted))


def remove(store: Store, found: Garbage) -> list[Litter]:
    """Remove what was found, but for what a run that was opened meanwhile may want. Returns what went."""
    held = open_runs(store)
    going = [one for one in found.litter if not held.holds(one)]
    # The description of a snapshot goes first: without it the rest is no snapshot, for whoever looks in between.
    going.sort(key=lambda one: not one.key.endswith("/snapshot.json"))
    for one in going:
        if one.history:
            with contextlib.suppress(ObjectMissing):  # moved by somebody else
                store.copy(one.key, one.history)
    store.delete(one.key for one in going if one.kind != "uploads")
    store.abort_uploads(found.uploads)
    return going


def open_runs(store: Store) -> InUse:
    held = InUse()
    for run in store.folders(ids.RUNS):
        if plan_pages.is_closed(store, run) or store.head(ids.request(run)) is None:
            continue
        last = plan_pages.latest_plan(store, run)
        held.runs.add(run)
        held.partitions |= plan_pages.planned_partitions(store, run) or set()
        if last is None:
            held.everything = True
        else:
            held.snapshots.add(last.snapshot)
    return held


# What there is -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """A part of our naming; `key` is what manifests call it, wherever it lies."""

    info: ObjectInfo
    generation: int
    key: str


def _parts(store: Store, superseded: dt.datetime, uncommitted: dt.datetime, keep: int) -> Iterator[Litter]:
    """Parts that the current generation does not name, nor, in history, one that is kept. The listing comes first, so
    that whatever is committed after it only adds to what is kept."""
    by_partition = defaultdict(list)
    for partition, part in _listed(store):
        by_partition[partition].append(part)
    for partition, listed in by_partition.items():
        if store.head(ids.lagging(partition)) is None:  # else a table still sends its readers to earlier files
            yield from _parts_of(store, partition, listed, superseded, uncommitted, keep)


def _parts_of(
    store: Store, partition: str, listed: list[_Part], superseded: dt.datetime, uncommitted: dt.datetime, keep: int
) -> Iterator[Litter]:
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
                yield Litter("orphaned", info.key, info.size, partition)
        elif info.key.startswith(ids.HISTORY):
            if info.modified <= superseded:
                yield Litter("history", info.key, info.size, partition)
        elif max(info.modified, since.get(part.generation + 1, info.modified)) <= superseded:
            kind = "superseded" if part.generation < newest else "orphaned"
            history = ids.history(part.key) if part.key in kept else ""
            yield Litter(kind, info.key, info.size, partition, history=history)


def _listed(store: Store) -> Iterator[tuple[str, _Part]]:
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


def _staging(store: Store, before: dt.datetime) -> Iterator[Litter]:
    """A folder at a time, by its newest object: the workflow that it belongs to may still write to it."""
    folders = defaultdict(list)
    for info in store.list(ids.STAGING):
        folders[info.key.rpartition("/")[0]].append(info)
    for folder, inside in folders.items():
        if max(info.modified for info in inside) <= before:
            partition = folder.removeprefix(ids.STAGING).rpartition("/")[0]
            yield from (Litter("staging", info.key, info.size, partition) for info in inside)


def _snapshots(store: Store, before: dt.datetime) -> Iterator[Litter]:
    """All but the newest, which the next run over an unchanged input takes as it is."""
    folders = defaultdict(list)
    for info in store.list(ids.SNAPSHOTS):
        folders[ids.snapshot_folder(info.key.removeprefix(ids.SNAPSHOTS).partition("/")[0])].append(info)
    ages = {folder: max(info.modified for info in inside) for folder, inside in folders.items()}
    newest = max(ages, key=lambda folder: ages[folder], default="")
    lately = _lately_planned(store)
    for folder, inside in folders.items():
        key = f"{folder}snapshot.json"
        if folder != newest and key != lately and ages[folder] <= before:
            yield from (Litter("snapshots", info.key, info.size, snapshot=key) for info in inside)


def _lately_planned(store: Store) -> str:
    last = [plan for run in store.folders(ids.RUNS) if (plan := plan_pages.latest_plan(store, run)) is not None]
    return max(last, key=lambda plan: plan.created_at).snapshot if last else ""
