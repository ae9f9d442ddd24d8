"""What may go: objects that no manifest needs, that are older than a rule, and that no open run may still want.

    superseded   parts of earlier generations             orphaned    parts that no generation names
    staging      what batches staged for a publication    snapshots   inputs that were split for plans of closed runs
    uploads      what interrupted writes left             probes      what `check` could not remove

Commits, journals, reports and whatever is not named as ours are never touched. A run is closed once its last plan is
older than its report: an open one may be carried on at any time, so its partitions and its snapshot stay. What is
open is looked at once more right before anything is removed.
"""

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.runs import plan_pages
from pipeline.sinks import commits
from pipeline.stores import Store, Upload
from schemas import ids
from schemas.manifest import named
from schemas.plan import Plan

# A publication that was given up is told from one under way by the runs; this is for one whose run was just closed.
UNCOMMITTED = dt.timedelta(hours=1)


@dataclass(frozen=True)
class Litter:
    """One object that may go. `partition` and `snapshot` are what an open run would hold it by."""

    kind: str
    key: str
    size: int
    partition: str = ""
    snapshot: str = ""


@dataclass
class InUse:
    """What open runs may still want."""

    runs: set[str] = field(default_factory=set)
    partitions: set[str] = field(default_factory=set)
    snapshots: set[str] = field(default_factory=set)
    everything: bool = False  # a run that has not planned yet may want any of it

    def holds(self, litter: Litter) -> bool:
        if litter.kind in ("superseded", "uploads", "probes"):
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
    store: Store, partition: str | None = None, *, older_than: dt.timedelta, keep_superseded: dt.timedelta,
    now: dt.datetime,
) -> Garbage:  # fmt: skip
    """Everything that may go, or what is one partition's. Reads only."""
    before = now - older_than
    uploads = list(store.stale_uploads(before)) if partition is None else []
    litter = [
        *_parts(store, before, min(before, now - keep_superseded), min(before, now - UNCOMMITTED)),
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
    store.delete(one.key for one in going if one.kind != "uploads")
    store.abort_uploads(found.uploads)
    return going


def open_runs(store: Store) -> InUse:
    held = InUse()
    for run in store.folders(ids.RUNS):
        last = _last_plan(store, run)
        report = store.head(ids.report(run))
        if report is not None and (last is None or last.created_at <= report.modified):
            continue
        if store.head(ids.request(run)) is None:
            continue
        held.runs.add(run)
        held.partitions |= plan_pages.planned_partitions(store, run) or set()
        if last is None:
            held.everything = True
        else:
            held.snapshots.add(last.snapshot)
    return held


def _last_plan(store: Store, run: str) -> Plan | None:
    found = [
        plan_pages.load_plan(store, info.key)
        for info in store.list(f"{ids.run_folder(run)}plan-")
        if info.key.endswith("/plan.json")
    ]
    return max(found, key=lambda plan: plan.created_at, default=None)


# What there is -----------------------------------------------------------------------------------------------------


def _parts(store: Store, before: dt.datetime, superseded: dt.datetime, uncommitted: dt.datetime) -> Iterator[Litter]:
    """Parts of our naming that the current generation does not name. The listing comes first, so that whatever is
    committed after it only adds to what is kept."""
    by_partition = defaultdict(list)
    for prefix in ("data/", "rejects/", f"{ids.TANDEM}/index/", f"{ids.TANDEM}/pending/"):
        for info in store.list(prefix):
            folder = f"{info.key.rpartition('/')[0]}/"
            generation = ids.parse_part(folder, info.key)
            if generation is not None and "=" in folder:
                by_partition[folder.removeprefix(prefix).rstrip("/")].append((info, generation))
    for partition, listed in by_partition.items():
        since = {
            parsed[1]: info.modified
            for info in store.list(ids.commits_of(partition))
            if (parsed := ids.parse_commit(info.key)) is not None and parsed[0] == partition
        }
        newest = max(since, default=0)
        manifest = commits.read_commit(store, partition, newest) if newest else None
        kept = named(manifest)
        if store.head(ids.lagging(partition)) is not None:
            continue  # a table still sends its readers to earlier files
        for info, generation in listed:
            if info.key in kept:
                continue
            if generation > newest:
                if info.modified <= uncommitted:
                    yield Litter("orphaned", info.key, info.size, partition)
            elif max(info.modified, since.get(generation + 1, info.modified)) <= superseded:
                kind = "superseded" if generation < newest else "orphaned"
                yield Litter(kind, info.key, info.size, partition)


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
    last = [plan for run in store.folders(ids.RUNS) if (plan := _last_plan(store, run)) is not None]
    return max(last, key=lambda plan: plan.created_at).snapshot if last else ""
