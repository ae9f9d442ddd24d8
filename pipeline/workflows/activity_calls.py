"""Typed handles by which workflows call activities: importing the activities would bring Polars into the sandbox.

All calls use the one retry policy for infrastructure and a heartbeat timeout. Even the shortest activity sends
heartbeats: its worker may be killed right after the start, and the workflow would wait for it otherwise."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

from pydantic import BaseModel
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError

with workflow.unsafe.imports_passed_through():
    from pipeline.workflows.policies import HEARTBEAT, HOOK, HOOK_RETRY, LONG, RETRY, WORKER_LOST
    from schemas.errors import CodeMismatch, by_code
    from schemas.jobs import JobEnd
    from schemas.messages.base import Message
    from schemas.messages.batch import BatchRequest, BatchResult, RowInput, StepResult
    from schemas.messages.jobs import (
        CancelJobs,
        CancelledJobs,
        FormedJobs,
        FormRequest,
        JobProgress,
        JobRequest,
    )
    from schemas.messages.partition import (
        Answers,
        AnswersRequest,
        CloseRequest,
        Holder,
        HolderRequest,
        Opened,
        OpenRequest,
        PartitionResult,
        PublishRequest,
    )
    from schemas.messages.run import (
        BudgetCheck,
        BudgetVerdict,
        FinaliseRequest,
        Notified,
        NotifyRequest,
        Page,
        PageRequest,
        PlanRef,
        PlanRequest,
        RunResult,
        SetLimits,
        SetLimitsRequest,
    )
    from schemas.messages.schedule import FiringDecision, FiringRequest

_WAITS_FOR_CODE = "waits-for-code"  # before, such a partition failed
_OUTLIVES_WORKERS = "outlives-workers"  # before, as many deaths of workers as attempts failed the partition
_LOST_CANCELS = "lost-cancels"  # before, what waited went on
_CANCEL_ENDS_WAIT = "cancel-ends-wait-for-code"  # before, one that came as the activity was refused was lost
_MOST_ROUNDS = 4  # of all attempts, each of which ended with the death of a worker
_FIRST_CODE_WAIT = timedelta(seconds=1)
# A worker with the right code may have come: the task goes to any worker, so a try tells little. A day of such waits
# must fit into a history.
_CODE_WAIT, _TRIES_AT_THIS_PACE = timedelta(seconds=10), 40
_LAST_CODE_WAIT = timedelta(minutes=5)
Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=BaseModel)


@dataclass(frozen=True)
class Activity(Generic[Q, R]):
    """The name of an activity, and the types of its request and its result."""

    name: str
    request: type[Q]
    result: type[R]


PLAN = Activity("plan", PlanRequest, PlanRef)
READ_PAGE = Activity("read_page", PageRequest, Page)
SET_LIMITS = Activity("set_limits", SetLimitsRequest, SetLimits)
CHECK_BUDGET = Activity("reckon", BudgetCheck, BudgetVerdict)
FINALISE = Activity("finalise", FinaliseRequest, RunResult)
NOTIFY = Activity("notify", NotifyRequest, Notified)
HOLDER = Activity("holder", HolderRequest, Holder)
OPEN = Activity("open", OpenRequest, Opened)
ANSWERS = Activity("answers", AnswersRequest, Answers)
PUBLISH = Activity("publish", PublishRequest, PartitionResult)
CLOSE = Activity("close", CloseRequest, PartitionResult)
ENRICH = Activity("enrich_batch", BatchRequest, BatchResult)
STEP_ROW = Activity("step_row", RowInput, StepResult)
ASK = Activity("ask", FiringRequest, FiringDecision)
FORM_JOBS = Activity("form_jobs", FormRequest, FormedJobs)
SUBMIT_JOB = Activity("submit_job", JobRequest, JobProgress)
POLL_JOB = Activity("poll_job", JobRequest, JobProgress)
COLLECT_JOB = Activity("collect_job", JobRequest, JobEnd)
CANCEL_JOBS = Activity("cancel_jobs", CancelJobs, CancelledJobs)
# All of them: a worker registers an activity of each name and type.
ACTIVITIES: tuple[Activity[Any, Any], ...] = (
    PLAN, READ_PAGE, SET_LIMITS, CHECK_BUDGET, FINALISE, NOTIFY, HOLDER, OPEN, ANSWERS, PUBLISH, CLOSE, ENRICH,
    STEP_ROW, ASK, FORM_JOBS, SUBMIT_JOB, POLL_JOB, COLLECT_JOB, CANCEL_JOBS,
)  # fmt: skip


async def call(
    activity: Activity[Q, R],
    request: Q,
    *,
    within: timedelta = LONG,
    whole: bool = False,
    waiting: Callable[[str], None] = lambda reason: None,
    is_cancelled: Callable[[], bool] | None = None,
) -> R:
    """Return the result of an activity. `whole`: a cancel waits until the activity has ended, so that its effects are
    known; see `stop_if_cancelled`.

    A worker whose code differs from the planned code refuses the activity. The call then waits for another worker,
    without limit but that of a cancel (`is_cancelled` of a caller that shields the call), and this uses up no attempt;
    `waiting` gets the reason, and "" once the wait is over. Attempts that
    are used up by a last one whose worker was killed begin anew, some times: that says nothing of the work."""
    kind = workflow.ActivityCancellationType
    tries = 0
    rounds = 1
    while True:
        try:
            result = await workflow.execute_activity(
                activity.name,
                request,
                result_type=activity.result,
                start_to_close_timeout=within,
                heartbeat_timeout=HEARTBEAT,
                retry_policy=RETRY,
                cancellation_type=kind.WAIT_CANCELLATION_COMPLETED if whole else kind.TRY_CANCEL,
            )
            break
        except ActivityError as exc:
            error, message = cause_of(exc)
            if error == WORKER_LOST and rounds < _MOST_ROUNDS and workflow.patched(_OUTLIVES_WORKERS):
                rounds += 1
                continue
            if by_code(error) is not CodeMismatch or not workflow.patched(_WAITS_FOR_CODE):
                raise
            waiting(message)
        if (is_cancelled or _is_cancelled)() and workflow.patched(_CANCEL_ENDS_WAIT):
            raise asyncio.CancelledError
        await workflow.sleep(_code_wait(tries))
        tries += 1
    if tries:
        waiting("")
    assert isinstance(result, activity.result)
    return result


def _code_wait(tries: int) -> timedelta:
    """Return the pause after so many refusals by workers with other code."""
    later = tries - _TRIES_AT_THIS_PACE
    if later < 0:
        return min(_FIRST_CODE_WAIT * (1 << min(tries, 8)), _CODE_WAIT)
    return min(_CODE_WAIT * (1 << min(later, 8)), _LAST_CODE_WAIT)


async def call_to_the_end(activity: Activity[Q, R], request: Q) -> R:
    """Return the result of an activity that must run even if the workflow is cancelled: it does not see the cancel."""
    task = asyncio.ensure_future(call(activity, request))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        return await task


def stop_if_cancelled() -> None:
    """Raise the cancel that arrived during a `whole` call which still returned a result, for example a batch that was
    handed back at that moment."""
    if _is_cancelled():
        raise asyncio.CancelledError


def stop_if_cancel_was_lost() -> None:
    """Raise the cancel that arrived as a wait with a time ended: Python 3.11 loses it (`asyncio.wait_for`, by which
    `workflow.wait_condition` waits)."""
    if _is_cancelled() and workflow.patched(_LOST_CANCELS):
        raise asyncio.CancelledError


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def send_notification(request: NotifyRequest) -> None:
    """Call a hook. If it cannot be reached, the worker's log names it and the run goes on."""
    with contextlib.suppress(ActivityError):
        await workflow.execute_activity(
            NOTIFY.name,
            request,
            result_type=NOTIFY.result,
            start_to_close_timeout=HOOK,
            schedule_to_close_timeout=2 * HOOK,
            retry_policy=HOOK_RETRY,
        )


def cause_of(exc: BaseException) -> tuple[str, str]:
    """Return the class name and the message of the error behind `exc`."""
    cause: BaseException = exc
    while isinstance(cause, ActivityError | ChildWorkflowError) and cause.cause is not None:
        cause = cause.cause
    if isinstance(cause, ApplicationError):
        hint = " ".join(str(detail) for detail in cause.details if detail)
        return cause.type or "Error", f"{cause.message} {hint}".strip()
    return type(cause).__name__, str(cause)
