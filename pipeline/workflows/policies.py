"""Retry policies and timeouts for infrastructure, by Temporal: there is one retry layer for each kind of failure. Model
calls are retried in `stages.models.calls`, waits are results, and a failure that would repeat is not retried."""

from datetime import timedelta

from temporalio.common import Priority, RetryPolicy

from schemas import ids
from schemas.messages.base import RunRef

# A frozen worker may swallow one or two retries through polls it had open, so fewer than ten would be too few.
RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=1),
    backoff_coefficient=2.0,
    maximum_interval=timedelta(seconds=30),
    maximum_attempts=12,
)
WORKER_LOST = "WorkerLost"  # the error of an attempt whose worker was killed
# A hook is tried a few times within a minute: a run waits no longer for one that does not answer.
HOOK_RETRY = RetryPolicy(initial_interval=timedelta(seconds=1), backoff_coefficient=3.0, maximum_attempts=4)
HOOK = timedelta(seconds=30)
HEARTBEAT = timedelta(seconds=10)
HEARTBEAT_EVERY = timedelta(seconds=1)
LONG = timedelta(hours=12)
SHORT = timedelta(minutes=2)
GRACE = timedelta(seconds=30)
WORKFLOW_TASK = timedelta(seconds=4)  # on one machine, where they take milliseconds: a worker may be killed in one
STICKY = timedelta(seconds=2)  # a worker that has not begun a task of its cached workflow by then counts as dead


def fair_share(ref: RunRef) -> Priority:
    """Return the priority by which runs that share a queue take turns: a scheduled run need not wait behind a backfill,
    nor the other way round. The children of a run inherit it; a server without fairness ignores it."""
    return Priority(fairness_key=ids.fairness_key(ref.pipeline, ref.sink, ref.run))
