"""Retire partitions that are gone from the source: a generation without files, which readers of every kind follow.

Its history and journal stay for their times: when the input comes back, nothing is paid for.
"""

import datetime as dt
import logging
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from pipeline.journal import compaction
from pipeline.journal.answers import coverage
from pipeline.journal.compaction import InUse
from pipeline.publishing import commit_partition
from pipeline.sinks import commits, generations
from pipeline.stores import Store
from pipeline.stores.documents import read_document
from schemas import ids
from schemas.errors import Cancelled, CommitConflict, ObjectMissing, TandemError
from schemas.manifest import Counts, Manifest
from schemas.messages.base import RunRef, RunState
from schemas.messages.run import Failure
from schemas.plan import Retirement, Retirements
from schemas.spec.sections import Spec

log = logging.getLogger("tandem.publishing")


@dataclass
class Retired:
    """The number of partitions that a run has retired, and those that it could not."""

    count: int = 0
    failures: list[Failure] = field(default_factory=list)


def retire_planned(spec: Spec, base: Path, store: Store, ref: RunRef, plan: str, state: RunState) -> Retired:
    """Retire the partitions of a plan whose time has come: what was moved, once its new partition is published, and all
    others once the run is completed. Repeatable. Raises StoreError if the plan cannot be read."""
    retired = Retired()
    try:
        planned = read_document(store, ids.retirements(plan), Retirements)
    except ObjectMissing:
        return retired
    for one in planned.partitions:
        try:
            retired.count += _is_due(store, one, state) and _retire(spec, base, store, ref, one)
        except (TandemError, OSError) as exc:
            code = exc.code if isinstance(exc, TandemError) else type(exc).__name__
            retired.failures.append(Failure(partition=one.partition, error=code, message=f"not retired: {exc}"))
    return retired


def _is_due(store: Store, one: Retirement, state: RunState) -> bool:
    if not one.moved_to:
        return state == "completed"
    moved = commits.current(store, one.moved_to)
    return moved is not None and moved.present and moved.input_fingerprint == one.fingerprint


def _retire(spec: Spec, base: Path, store: Store, ref: RunRef, one: Retirement) -> bool:
    """Retire a partition, unless another run has changed it since. Returns True if this run has retired it."""
    current = commits.current(store, one.partition)
    if current is None:
        return False
    if current.kind == "retired" and current.run == ref.run:
        store.delete([ids.moved(one.partition)])
        return True
    if current.generation != one.generation:
        return False
    now = dt.datetime.now(dt.UTC)
    draft = Manifest(
        kind="retired", pipeline=ref.pipeline, partition=one.partition, generation=current.generation + 1,
        parent=current.generation, counts=Counts(removed=current.counts.out), run=ref.run, nonce=uuid.uuid4().hex,
        started_at=now, committed_at=now,
    )  # fmt: skip
    try:
        manifest = commit_partition.commit(spec, base, store, draft, lambda: None)
    except (CommitConflict, Cancelled) as exc:
        log.warning("%s is not retired: %s", one.partition, exc)
        return False
    now = dt.datetime.now(dt.UTC)  # files leave `data/` counted from the commit
    generations.settle_marked(store, manifest, generations.retention_of(spec.sink), now)
    unused = InUse(pl.Series([], dtype=pl.String), frozenset(), spec.journal.keep)

    def index(keys: pl.Series) -> None:
        new = coverage.NewRecords(one.partition, manifest.generation, manifest.parent, keys)
        coverage.add_commits(store, [new])

    compaction.compact(store, one.partition, now, unused, index)
    store.delete([ids.moved(one.partition)])
    return True
