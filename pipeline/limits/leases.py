"""Shares of limits in a fleet, requested from the limiter workflow of each limit.

The limiters of a namespace have a task queue of their own, so that any process that needs one also serves it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from temporalio.client import Client, WithStartWorkflowOperation
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.worker import Worker, WorkflowRunner

from pipeline.limits.lease_keeper import LeaseKeeper, SharedLimits
from pipeline.settings import version
from pipeline.workflows.limits.limiter import LimiterWorkflow
from schemas import ids
from schemas.messages.limits import Lease, LeaseRequest, LimiterInput

_AGAIN_S, _SOON_S = 2.0, 0.5
_LONGEST = timedelta(minutes=10)  # an execution that no worker serves any more is ended by the server


class Leases(LeaseKeeper):
    """Requests of shares for the limits of this process, or of a command."""

    def __init__(self, client: Client, limits: SharedLimits, runner: WorkflowRunner) -> None:
        super().__init__(limits, again_s=_AGAIN_S, soon_s=_SOON_S)
        self._client = client
        self._runner = runner

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        worker = Worker(
            self._client,
            task_queue=ids.LIMITS_QUEUE,
            workflows=[LimiterWorkflow],
            workflow_runner=self._runner,
            max_cached_workflows=20,
            build_id=version(),
        )
        working = asyncio.create_task(worker.run())
        try:
            yield
        finally:
            await worker.shutdown()
            await working

    async def _update(self, key: str, request: LeaseRequest) -> Lease:
        start = WithStartWorkflowOperation(
            LimiterWorkflow.run,
            LimiterInput(),
            id=ids.limiter_workflow_id(key),
            task_queue=ids.LIMITS_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            run_timeout=_LONGEST,
        )
        lease = await self._client.execute_update_with_start_workflow(
            LimiterWorkflow.lease, request, start_workflow_operation=start
        )
        assert isinstance(lease, Lease)
        return lease
