"""The single steps of a partition: publish, close, signal its run, run one row."""

import asyncio
import contextlib
from collections.abc import Callable

from temporalio import workflow
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import ActivityError, FailureError

with workflow.unsafe.imports_passed_through():
    from pipeline.workflows.activity_calls import CLOSE, PUBLISH, call, call_to_the_end, cause_of
    from pipeline.workflows.row import RowWorkflow
    from schemas import ids
    from schemas.messages.batch import RowInput, RowResult
    from schemas.messages.partition import CloseRequest, ParkedPartition, PartitionResult, PublishRequest


async def publish(request: PublishRequest, waiting: Callable[[str], None]) -> PartitionResult:
    """Publish. A publication that has begun runs to its end, also when cancelled, so that its outcome is known. It has
    not begun while it waits for a worker with its code."""
    cancels: list[asyncio.CancelledError] = []
    task = asyncio.ensure_future(call(PUBLISH, request, waiting=waiting, is_cancelled=lambda: bool(cancels)))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError as cancelled:
        cancels.append(cancelled)
        try:
            return await task
        except ActivityError:
            raise cancelled from None


async def close(request: CloseRequest) -> PartitionResult:
    """Record the outcome of the partition, also if the run is cancelled. Never raises ActivityError."""
    try:
        return await call_to_the_end(CLOSE, request)
    except ActivityError as exc:
        return PartitionResult(
            partition=request.partition,
            outcome=request.outcome,
            error=request.error,
            message=f"{request.message}; closing it failed too: {cause_of(exc)[1]}",
        )


async def report_questions(partition: str, questions: int) -> None:
    """Tell the run how many questions are open, so that it can start other partitions. Shielded: a signal that is
    sent despite a cancel would swallow the cancel."""
    await asyncio.shield(asyncio.ensure_future(_signal_run(partition, questions)))


async def _signal_run(partition: str, questions: int) -> None:
    parent = workflow.info().parent
    if parent is not None:
        run = workflow.get_external_workflow_handle(parent.workflow_id, run_id=parent.run_id)
        with contextlib.suppress(FailureError):  # a run that has just ended needs no signal
            await run.signal("parked", ParkedPartition(partition=partition, questions=questions))


async def run_row(request: RowInput) -> RowResult:
    """Raises WorkflowAlreadyStartedError while a row of a terminated partition workflow is still running."""
    ref = request.ref
    return await workflow.execute_child_workflow(
        RowWorkflow.run,
        request,
        id=ids.row_workflow_id(ref.pipeline, ref.sink, request.partition, request.stage, request.batch, request.id),
        task_timeout=workflow.info().task_timeout,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        parent_close_policy=workflow.ParentClosePolicy.REQUEST_CANCEL,
        cancellation_type=workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
    )


async def all_ended(running: set["asyncio.Task[None]"]) -> None:
    """Wait for tasks to end, also when the workflow is cancelled meanwhile."""
    cancelled: asyncio.CancelledError | None = None
    while not all(task.done() for task in tuple(running)):
        try:
            await workflow.wait_condition(lambda: all(task.done() for task in tuple(running)))
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        raise cancelled
