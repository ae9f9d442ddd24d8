"""One retry layer per kind of failure: these are Temporal's, for infrastructure. Model calls are retried in
`stages.models.calls`, waits are results, and what cannot get better by trying again is not retried."""

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
# A hook is told a few times within a minute: a run does not wait longer for who does not listen.
HOOK_RETRY = RetryPolicy(initial_interval=timedelta(seconds=1), backoff_coefficient=3.0, maximum_attempts=4)
HOOK = timedelta(seconds=30)
HEARTBEAT = timedelta(seconds=10)
HEARTBEAT_EVERY = timedelta(seconds=1)
LONG = timedelta(hours=12)
SHORT = timedelta(minutes=2)
GRACE = timedelta(seconds=30)
WORKFLOW_TASK = timedelta(seconds=4)  # on one machine, where they take milliseconds: who has begun one may be killed
STICKY = timedelta(seconds=2)  # a worker that has not begun a task of its cached workflow by then is taken for dead


def fair_share(ref: RunRef) -> Priority:
    """Runs that share a queue take turns at it: a schedule's need not wait behind all that a backfill has queued, nor
    the other way round. What a run starts inherits it; a server without fairness ignores it."""
    return Priority(fairness_key=ids.fairness_key(ref.pipeline, ref.sink, ref.run))
