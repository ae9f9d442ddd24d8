"""Handles for the work on a partition and on one of its batches: job, plan, store and folder together."""

from dataclasses import dataclass, replace
from functools import cached_property

from pipeline.enrichment.staging import StagingFolder
from pipeline.journal.answers.elsewhere import OtherJournals
from pipeline.planning.job import Job
from pipeline.planning.known_answers import other_journals
from pipeline.progress_note import Note, unnoted
from pipeline.sources.snapshot import Entry
from pipeline.stores import Store
from schemas.plan import Plan
from schemas.staging import OpenedPartition, PlannedBatch


@dataclass(frozen=True)
class PartitionRun:
    """A run's work on one partition, from opening to publishing. `note` takes the rows that were just done, for a
    heartbeat."""

    job: Job
    plan: Plan
    store: Store
    partition: str
    note: Note = unnoted

    @property
    def others(self) -> OtherJournals:
        """The journals of the dataset's other partitions."""
        return other_journals(self.job, self.store)

    @cached_property
    def entry(self) -> Entry:
        """The partition's entry in the plan's snapshot."""
        return self.job.snapshot.entry(self.partition)


@dataclass(frozen=True)
class BatchAttempt:
    """One attempt of a run at batch `number` of a partition: its rows, and the folder in which it stages files;
    `fresh`: its answers are to be new; `base` and `opened_at`: the generation on which and the time at which the
    partition was opened."""

    job: Job
    store: Store
    run: str
    partition: str
    number: int
    batch: PlannedBatch
    folder: str = ""
    fresh: bool = False
    base: int = 0
    opened_at: float = 0.0

    @classmethod
    def of(cls, job: Job, store: Store, run: str, opened: OpenedPartition, number: int) -> "BatchAttempt":
        """An attempt at a batch of an opened partition."""
        batch = opened.batches[number]
        if opened.selected:
            job = replace(job, snapshot=job.snapshot.with_files(opened.selected))
        return cls(
            job, store, run, opened.partition, number, batch, folder=opened.folder, fresh=opened.fresh,
            base=opened.base, opened_at=opened.started_at.timestamp(),
        )  # fmt: skip

    @property
    def staging(self) -> StagingFolder:
        return StagingFolder(self.store, self.folder)
