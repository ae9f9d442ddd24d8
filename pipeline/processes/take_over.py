"""Take-over from dead workers: a killed command's activities are free at once, not after missed heartbeats."""

import asyncio
import contextlib
import logging
from datetime import timedelta

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.workflowservice.v1 import (
    DescribeWorkflowExecutionRequest,
    ResetStickyTaskQueueRequest,
    RespondActivityTaskFailedByIdRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError

from pipeline.processes.deaths import lost_worker
from pipeline.processes.owner import is_dead

log = logging.getLogger("tandem.processes")
_AT_ONCE = 16
_MOST = 2_000
_ANSWER_WITHIN = timedelta(seconds=10)


async def release_from_the_dead(client: Client, queue: str) -> None:
    """Fail the activities of a task queue whose worker is known to be dead, and stop offering workflow tasks to it. The
    rest is left to Temporal's own timeouts."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def release(execution: WorkflowExecution) -> None:
        async with room:
            with contextlib.suppress(RPCError):
                await _release(client, execution)

    tasks: list[asyncio.Task[None]] = []
    try:
        async for found in client.list_workflows(f"ExecutionStatus = 'Running' AND TaskQueue = '{queue}'", limit=_MOST):
            tasks.append(asyncio.create_task(release(WorkflowExecution(workflow_id=found.id, run_id=found.run_id))))
    except RPCError as exc:
        log.warning("activities of dead workers are left to their timeouts: %s", exc)
    await asyncio.gather(*tasks)


async def _release(client: Client, execution: WorkflowExecution) -> None:
    service, namespace = client.workflow_service, client.namespace
    request = DescribeWorkflowExecutionRequest(namespace=namespace, execution=execution)
    described = await service.describe_workflow_execution(request, timeout=_ANSWER_WITHIN)
    await service.reset_sticky_task_queue(
        ResetStickyTaskQueueRequest(namespace=namespace, execution=execution), timeout=_ANSWER_WITHIN
    )
    for activity in described.pending_activities:
        begun = activity.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
        if begun and is_dead(activity.last_worker_identity):
            failed = RespondActivityTaskFailedByIdRequest(
                namespace=namespace,
                workflow_id=execution.workflow_id,
                run_id=execution.run_id,
                activity_id=activity.activity_id,
                failure=lost_worker("its worker was killed"),
                identity=client.service_client.config.identity,
            )
            with contextlib.suppress(RPCError):  # it has timed out meanwhile
                await service.respond_activity_task_failed_by_id(failed, timeout=_ANSWER_WITHIN)
