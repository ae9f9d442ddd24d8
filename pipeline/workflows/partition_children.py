"""A run's children: one PartitionWorkflow for each partition, under the id that is the partition's lock."""

import asyncio
import contextlib
from typing import Any, TypeAlias

from temporalio import workflow
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy
from temporalio.exceptions import ChildWorkflowError, FailureError, WorkflowAlreadyStartedError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pipeline.workflows.partition import PartitionWorkflow
    from schemas import ids
    from schemas.errors import Cancelled
    from schemas.messages.base import RunRef
    from schemas.messages.jobs import Waves
    from schemas.messages.partition import PartitionInput, PartitionResult
    from schemas.messages.run import PlannedPartition, PlanRef

PARTITION = SearchAttributeKey.for_keyword("TandemPartition")
_SMALL = 100  # rows: their batch takes no longer than it takes to begin it
Child: TypeAlias = "workflow.ChildWorkflowHandle[PartitionWorkflow, PartitionResult]"


async def start_child(ref: RunRef, plan: PlanRef, planned: PlannedPartition, waves: Waves, *, rehearsal: bool) -> Child:
    """Raises WorkflowAlreadyStartedError while another run holds the partition."""
    return await workflow.start_child_workflow(
        PartitionWorkflow.run,
        PartitionInput(
            ref=ref,
            plan=plan.key,
            partition=planned.key,
            rows=planned.rows,
            windows=plan.windows,
            rehearsal=rehearsal,
            waves=waves,
            small=planned.rows <= _SMALL and not rehearsal,
        ),
        id=ids.partition_workflow_id(ref.pipeline, ref.sink, planned.key),
        task_timeout=workflow.info().task_timeout,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        parent_close_policy=workflow.ParentClosePolicy.REQUEST_CANCEL,
        cancellation_type=workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
        search_attributes=_attributes(planned.key),
    )


def _attributes(partition: str) -> TypedSearchAttributes | None:
    """Return the parent's search attributes plus the partition, or None if the server does not know them."""
    attributes = workflow.info().typed_search_attributes
    return attributes.updated(SearchAttributePair(PARTITION, partition)) if len(attributes) else None


async def result_of_cancelled(starting: "asyncio.Future[Child]", cancelled: asyncio.CancelledError) -> PartitionResult:
    """Return the result of a child whose start was in progress when the cancel came: it may fence, so wait for it."""
    try:
        child = await starting
    except WorkflowAlreadyStartedError:
        raise cancelled from None
    child.cancel()
    return await child


def result_of_failed(partition: str, exc: ChildWorkflowError) -> PartitionResult:
    """Return the result of a child that returned none itself: terminated, timed out or cancelled."""
    if is_cancelled_exception(exc):
        return PartitionResult(
            partition=partition, outcome="cancelled", error=Cancelled.__name__, message=str(exc.cause or exc)
        )
    cause = exc.cause or exc
    return PartitionResult(partition=partition, outcome="failed", error=type(cause).__name__, message=str(cause))


async def signal_child(child: Child, signal: Any, *arguments: str) -> None:
    """Signal our own child, by its handle: its id may by now belong to another run's child. A child that has just ended
    needs no signal."""
    with contextlib.suppress(FailureError):
        await child.signal(signal, args=arguments)
