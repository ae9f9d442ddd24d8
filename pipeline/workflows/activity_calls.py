"""How workflows call activities: by typed handles, because importing them would bring Polars into the sandbox; with the
one retry policy for infrastructure, and a heartbeat timeout: every activity beats, the briefest too, as the worker that
has begun it may be killed in that instant, and would be waited for."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError

with workflow.unsafe.imports_passed_through():
    from pipeline.workflows.policies import HEARTBEAT, HOOK, HOOK_RETRY, LONG, RETRY
    from schemas.errors import CodeMismatch, by_code
    from schemas.messages.base import Message
    from schemas.messages.batch import BatchRequest, BatchResult, RowInput, StepResult
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
_FIRST_CODE_WAIT = timedelta(seconds=1)
_LAST_CODE_WAIT = timedelta(minutes=5)
Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


@dataclass(frozen=True)
class Activity(Generic[Q, R]):
    """An activity as a workflow knows it: its name, what it is given and what it returns."""

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
# All of them: a worker registers an activity of each name and type.
ACTIVITIES: tuple[Activity[Any, Any], ...] = (
    PLAN, READ_PAGE, SET_LIMITS, CHECK_BUDGET, FINALISE, NOTIFY, HOLDER, OPEN, ANSWERS, PUBLISH, CLOSE, ENRICH,
    STEP_ROW, ASK,
)  # fmt: skip


async def call(
    activity: Activity[Q, R],
    request: Q,
    *,
    within: timedelta = LONG,
    whole: bool = False,
    waiting: Callable[[str], None] = lambda reason: None,
) -> R:
    """The result of an activity. `whole`: a cancel waits until the activity has ended, so that what it did is known;
    see `stop_if_cancelled`.

    A worker that has other code than was planned refuses: another one has to take it, which is waited for as long as
    it takes; `waiting` hears for what, and "" once it is over. That is a wait, and no attempt."""
    kind = workflow.ActivityCancellationType
    pause = _FIRST_CODE_WAIT
    while True:
        try:
            found = await workflow.execute_activity(
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
            if by_code(error) is not CodeMismatch or not workflow.patched(_WAITS_FOR_CODE):
                raise
            waiting(message)
        await workflow.sleep(pause)
        pause = min(2 * pause, _LAST_CODE_WAIT)
    if pause != _FIRST_CODE_WAIT:
        waiting("")
    assert isinstance(found, activity.result)
    return found


async def call_to_the_end(activity: Activity[Q, R], request: Q) -> R:
    """The same, for what must happen even when the workflow is cancelled: the activity never hears of the cancel."""
    task = asyncio.ensure_future(call(activity, request))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        return await task


def stop_if_cancelled() -> None:
    """Raise the cancel that came while something was waited for to its end, and which that swallowed: it may have ended
    as if nothing had happened, as a batch does that was handed back at that moment."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def send_notification(request: NotifyRequest) -> None:
    """Tell a hook. One that cannot be told is named in the worker's log, and changes nothing."""
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
    """The class name and the sentence of what went wrong."""
    cause: BaseException = exc
    while isinstance(cause, ActivityError | ChildWorkflowError) and cause.cause is not None:
        cause = cause.cause
    if isinstance(cause, ApplicationError):
        hint = " ".join(str(detail) for detail in cause.details if detail)
        return cause.type or "Error", f"{cause.message} {hint}".strip()
    return type(cause).__name__, str(cause)
