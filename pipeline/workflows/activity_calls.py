"""How workflows call activities: by name, because importing them would bring Polars into the sandbox; with the one
retry policy for infrastructure, and a heartbeat timeout: every activity beats, the briefest too, as the worker that has
begun it may be killed in that instant, and would be waited for."""

import asyncio
import contextlib
from datetime import timedelta
from typing import TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError

with workflow.unsafe.imports_passed_through():
    from pipeline.workflows.policies import HEARTBEAT, HOOK, HOOK_RETRY, LONG, RETRY
    from schemas.messages.base import Message
    from schemas.messages.run import Notified, NotifyRequest


R = TypeVar("R", bound=Message)


async def call(name: str, request: Message, result: type[R], *, within: timedelta = LONG, whole: bool = False) -> R:
    """The result of an activity. `whole`: a cancel waits until the activity has ended, so that what it did is known;
    see `stop_if_cancelled`."""
    kind = workflow.ActivityCancellationType
    found = await workflow.execute_activity(
        name,
        request,
        result_type=result,
        start_to_close_timeout=within,
        heartbeat_timeout=HEARTBEAT,
        retry_policy=RETRY,
        cancellation_type=kind.WAIT_CANCELLATION_COMPLETED if whole else kind.TRY_CANCEL,
    )
    assert isinstance(found, result)
    return found


async def call_to_the_end(name: str, request: Message, result: type[R]) -> R:
    """The same, for what must happen even when the workflow is cancelled: the activity never hears of the cancel."""
    task = asyncio.ensure_future(call(name, request, result))
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
            "notify",
            request,
            result_type=Notified,
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
