"""Status of partitions: the published generation, the outcome of the last attempt, and a run's decision. Three separate
facts: a partition may be published and up to date although its last attempt failed."""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from pipeline.planning import builder
from pipeline.planning.job import Job
from pipeline.sinks import catalogue, commits
from pipeline.stores import Store
from schemas.manifest import Manifest
from schemas.plan import Selection

STATUSES = ("published", "partial", "missing", "stale", "gone", "retired", "failed", "cancelled", "rejected", "pending")


@dataclass(frozen=True)
class Attempt:
    """The outcome of the last attempt, in any run."""

    outcome: str
    run: str
    at: dt.datetime
    error: str
    message: str


@dataclass(frozen=True)
class PartitionStatus:
    """`published` is the manifest that readers see (without its files), None for nothing. `due`: a run would run it,
    with the `reason` for that or against it; `gone`: the source has it no more; `retired`: nor has the dataset."""

    partition: str
    published: Manifest | None
    bytes: int
    attempt: Attempt | None
    due: bool
    gone: bool
    reason: str
    retired: bool = False

    @property
    def statuses(self) -> set[str]:
        """The words of STATUSES that are true of the partition."""
        found = {self.attempt.outcome} & {"failed", "cancelled"} if self.attempt is not None else set()
        if self.gone:
            found.add("gone")
        if self.published is None:
            return found | {"retired" if self.retired else "missing"}
        found.add(self.published.kind)
        if self.due:
            found.add("stale")
        found |= {name for name in ("rejected", "pending") if getattr(self.published.counts, name)}
        return found


def partition_statuses(store: Store, job: Job | None, now: dt.datetime) -> Iterator[PartitionStatus]:
    """Yield every partition that the source has, or that ever committed or was tried. Without a job (the source cannot
    be read) it is unknown which are due."""
    known = catalogue.read(store)
    decided: dict[str, tuple[bool, str]] = {}
    if job is not None:
        for decision in builder.decisions(job, store, Selection(), now, known=known):
            if not decision.retire:
                decided[decision.partition] = decision.run, decision.reason
    every = known.published.select("partition", "bytes", "manifest", "shape")
    for other in (known.attempts, pl.DataFrame({"partition": list(decided)}, schema={"partition": pl.String})):
        every = every.join(other, on="partition", how="full", coalesce=True)
    for partition, size, text, shape, run, outcome, error, message, time in every.sort("partition").iter_rows():
        gone = job is not None and partition not in decided
        due, reason = decided.get(partition, (False, "gone from the source" if gone else "unknown"))
        yield PartitionStatus(
            partition=partition,
            published=_published(store, catalogue.manifest_of(text, shape)),
            bytes=size or 0,
            attempt=None if run is None else Attempt(outcome, run, time, error, message),
            due=due,
            gone=gone,
            reason=reason,
            retired=(text or "").find('"kind":"retired"') >= 0,
        )


def _published(store: Store, manifest: Manifest | None) -> Manifest | None:
    """The generation whose files readers see: a tombstone repeats an earlier one. None for a retired partition."""
    while manifest is not None and manifest.kind == "tombstone":
        if not manifest.present or manifest.parent is None:
            return None
        manifest = commits.read_commit(store, manifest.partition, manifest.parent)
    return manifest if manifest is not None and manifest.present else None
