"""A run's children: one PartitionWorkflow for each partition, under the id that is the partition's lock."""

import asyncio
import contextlib
from typing import Any, TypeAlias

from temporalio import workflow
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy
from temporalio.exceptions import FailureError, WorkflowAlreadyStartedError

with workflow.unsafe.imports_passed_through():
    from pipeline.workflows.partition import PartitionWorkflow
    from schemas import ids
    from schemas.messages.base import RunRef
    from schemas.messages.partition import PartitionInput, PartitionResult
    from schemas.messages.run import PlannedPartition, PlanRef

PARTITION = SearchAttributeKey.for_keyword("TandemPartition")
Child: TypeAlias = "workflow.ChildWorkflowHandle[PartitionWorkflow, PartitionResult]"


async def start_child(ref: RunRef, plan: PlanRef, planned: PlannedPartition, *, rehearsal: bool) -> Child:
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
        ),
        id=ids.partition_workflow_id(ref.pipeline, ref.sink, planned.key),
        task_timeout=workflow.info().task_timeout,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        parent_close_policy=workflow.ParentClosePolicy.REQUEST_CANCEL,
        cancellation_type=workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
        search_attributes=_attributes(planned.key),
    )


def _attributes(partition: str) -> TypedSearchAttributes | None:
    """The parent's search attributes and the child's partition, where the server knows them."""
    known = workflow.info().typed_search_attributes
    return known.updated(SearchAttributePair(PARTITION, partition)) if len(known) else None


async def result_of_cancelled(starting: "asyncio.Future[Child]", cancelled: asyncio.CancelledError) -> PartitionResult:
    """The result of a child that was being started when the cancel came: it may fence, so it is waited for."""
    try:
        child = await starting
    except WorkflowAlreadyStartedError:
        raise cancelled from None
    child.cancel()
    return await child


async def signal_child(child: Child, signal: Any, *arguments: str) -> None:
    """Signal our own child, by its handle: under its id another run's may be at work. One that has just ended needs no
    telling."""
    with contextlib.suppress(FailureError):
        await child.signal(signal, args=arguments)
