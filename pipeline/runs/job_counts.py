"""The provider batch jobs of a run, counted from what lies of them in the sink."""

from typing import TypeVar

from pipeline.limits.job_budget import job_names
from pipeline.stores import Store
from pipeline.stores.documents import read_document
from schemas import ids
from schemas.errors import Damaged, ObjectMissing
from schemas.jobs import JobEnd, JobState, Submitted
from schemas.manifest import Noun

Document = TypeVar("Document", JobEnd, JobState, Submitted)


class JobCounts(Noun):
    """Jobs that were submitted; of these, those that were worked off, and those that ended early (`expired`, cancelled
    or failed); the requests that they held and that are `done` so far. `saved_usd`: against the standard price."""

    submitted: int = 0
    completed: int = 0
    expired: int = 0
    requests: int = 0
    done: int = 0
    saved_usd: float = 0.0
    deadline: float | None = None  # of the first that is out, as its provider says: seconds since the epoch

    def with_end(self, end: JobEnd) -> "JobCounts":
        over = {"completed": self.completed + 1} if end.state == "ended" else {"expired": self.expired + 1}
        numbers = {"requests": self.requests + end.requests, "done": self.done + end.answered + end.refused}
        saved = {"saved_usd": self.saved_usd + (end.saved_usd or 0.0)}
        return self.model_copy(update={"submitted": self.submitted + 1, **over, **numbers, **saved})

    def with_state(self, state: JobState) -> "JobCounts":
        known = [at for at in (self.deadline, state.deadline) if at is not None]
        numbers = {"requests": self.requests + state.requests, "done": self.done + state.done + state.failed}
        return self.model_copy(
            update={"submitted": self.submitted + 1, **numbers, "deadline": min(known, default=None)}
        )


def job_counts(store: Store, run: str) -> JobCounts:
    """Count the jobs of a run. Blocks; raises StoreError."""
    counts = JobCounts()
    for pool, job in job_names(store, run):
        end = _read(store, ids.job_ended(run, pool, job), JobEnd)
        if end is not None:
            counts = counts.with_end(end) if end.id else counts
            continue
        done = _read(store, ids.job_submitted(run, pool, job), Submitted)
        if done is not None and done.id:
            unseen = JobState(job=job, state="queued")
            counts = counts.with_state(_read(store, ids.job_state(run, pool, job), JobState) or unseen)
    return counts


def _read(store: Store, key: str, kind: type[Document]) -> Document | None:
    try:
        return read_document(store, key, kind)
    except (ObjectMissing, Damaged):
        return None
