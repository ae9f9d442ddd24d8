"""The single steps of a run: read a page, record what was not run, finalise; and the reasons to stop early."""

from datetime import datetime

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from pipeline.workflows.activity_calls import CLOSE, FINALISE, READ_PAGE, call, call_to_the_end
    from pipeline.workflows.policies import SHORT
    from schemas.errors import CanaryFailed, Cancelled, TooManyFailures, UsageError
    from schemas.manifest import Counts
    from schemas.messages.base import RunRef, RunState
    from schemas.messages.partition import CloseRequest, PartitionResult
    from schemas.messages.run import (
        Failure,
        FinaliseRequest,
        Page,
        PageRequest,
        PlannedPartition,
        PlanRef,
        RunResult,
        SetLimits,
        Totals,
    )

MAX_FAILURES = 50
_MOST_PARTITIONS = 500
_MOST_ROWS = 10_000


async def read_page(ref: RunRef, plan: PlanRef, number: int) -> Page:
    return await call(READ_PAGE, PageRequest(ref=ref, plan=plan.key, page=number), within=SHORT)


async def not_run(ref: RunRef, plan: PlanRef | None, partition: str, message: str) -> PartitionResult:
    """Record that a partition was not begun."""
    request = CloseRequest(
        ref=ref, plan=plan.key if plan else "", partition=partition, outcome="not_run", message=message
    )
    return await call(CLOSE, request)


async def cancelled_waiting(ref: RunRef, plan: PlanRef, planned: PlannedPartition) -> PartitionResult:
    """Record that a partition was cancelled while it waited for provider jobs, without a workflow of its own."""
    request = CloseRequest(
        ref=ref, plan=plan.key, partition=planned.key, outcome="cancelled", error=Cancelled.__name__,
        message="the run was cancelled while it waited for provider jobs", rows=planned.rows,
    )  # fmt: skip
    return await call_to_the_end(CLOSE, request)


async def finalise(
    ref: RunRef,
    plan: PlanRef | None,
    state: RunState,
    totals: Totals,
    failures: list[Failure],
    stop: Failure | None,
    started: datetime,
) -> RunResult:
    """Write the report, also of a run that is cancelled."""
    request = FinaliseRequest(
        ref=ref,
        plan=plan.key if plan else "",
        state=state,
        totals=totals,
        failures=tuple(failures[:MAX_FAILURES]),
        stop=stop,
        started_at=started,
    )
    return await call_to_the_end(FINALISE, request)


def with_window(plan: PlanRef, partitions: int | None) -> PlanRef:
    """Return the plan with this number of concurrent partitions, or unchanged for None."""
    if partitions is None:
        return plan
    return plan.model_copy(update={"windows": plan.windows.model_copy(update={"partitions": partitions})})


def final_state(totals: Totals, stop: Failure | None, *, cancelled: bool) -> RunState:
    if cancelled:
        return "cancelled"
    return "failed" if stop is not None or totals.failed or totals.cancelled else "completed"


def canary_refused(counts: Counts, max_reject_rate: float) -> Failure | None:
    """Return the failure of a canary of which too many rows were rejected, else None."""
    if counts.rejected <= max_reject_rate * counts.rows_in:
        return None
    rejected = f"{counts.rejected:,} of the canary's {counts.rows_in:,} rows were rejected"
    message = (
        f"{rejected}; limits.max_reject_rate is {max_reject_rate:.1%}. The rest was not begun; see: tandem rejects ls"
    )
    return Failure(partition="", error=CanaryFailed.__name__, message=message)


def stop_after(failure: Failure, totals: Totals, max_failures: int | None, *, rehearsal: bool) -> Failure | None:
    """Return the reason to stop the run after a failure, else None; running partitions may still end."""
    if rehearsal:
        message = f"the canary failed: {failure.message} The rest was not begun."
        return Failure(partition=failure.partition, error=CanaryFailed.__name__, message=message)
    if max_failures is None or totals.failed < max_failures:
        return None
    failed = f"{totals.failed:,} of {totals.total:,} partitions failed"
    message = f"{failed}, and --max-failures is {max_failures}; nothing new was begun."
    return Failure(partition="", error=TooManyFailures.__name__, message=message)


def refuse_limits(limits: SetLimits) -> None:
    """Raises ApplicationError (UsageError) for limits that are empty or out of range."""
    if limits.model_dump(exclude_none=True) == {}:
        raise _refused("No limit was given.", "Give --max-active N, --rows-in-flight N or --max-cost USD.")
    for flag, value, most in (
        ("--max-active", limits.partitions, _MOST_PARTITIONS),
        ("--rows-in-flight", limits.rows_in_flight, _MOST_ROWS),
    ):
        if value is not None and not 1 <= value <= most:
            raise _refused(f"{flag} {value}: not between 1 and {most:,}.", "")


def _refused(fact: str, hint: str) -> ApplicationError:
    return ApplicationError(fact, hint, type=UsageError.__name__, non_retryable=True)
