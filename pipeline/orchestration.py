"""The workers of workflows, which run Tandem's code alone: a command has them in its own process.

Without the activities' imports (`pipeline.worker`), which are seconds that only worker processes need; and without
Temporal's sandbox, in which tests run the same code: there, each workflow imports its modules anew.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from temporalio.client import Client
from temporalio.worker import Interceptor, UnsandboxedWorkflowRunner, Worker

from pipeline.limits.lease_keeper import SharedLimits
from pipeline.limits.leases import Leases
from pipeline.settings import version
from pipeline.telemetry.metrics import recorder
from pipeline.telemetry.traces import switch
from pipeline.workflows.jobs.workflow import JobsWorkflow
from pipeline.workflows.partition import PartitionWorkflow
from pipeline.workflows.policies import STICKY
from pipeline.workflows.row import RowWorkflow
from pipeline.workflows.run import RunWorkflow
from pipeline.workflows.schedule import ScheduledWorkflow


@asynccontextmanager
async def leasing(client: Client, limits: SharedLimits) -> AsyncIterator[None]:
    """Share limits with the fleet until the block ends."""
    leases = asyncio.create_task(Leases(client, limits, UnsandboxedWorkflowRunner()).run())
    try:
        yield
    finally:
        leases.cancel()
        await asyncio.gather(leases, return_exceptions=True)


@asynccontextmanager
async def orchestrating(client: Client, queue: str, identity: str | None = None) -> AsyncIterator[None]:
    """Run the workflows of a task queue until the block ends: only Tandem's code, no user code."""
    interceptors: list[Interceptor] = []
    if recorder.current is not None:
        from pipeline.telemetry.metrics.workflow_figures import WorkflowFigures

        interceptors.append(WorkflowFigures(recorder.current))
    if (tracer := switch.tracer()) is not None:
        from pipeline.telemetry.traces.workflow_spans import WorkflowSpans

        interceptors.append(WorkflowSpans(tracer))
    worker = Worker(
        client,
        task_queue=queue,
        workflows=[RunWorkflow, PartitionWorkflow, RowWorkflow, JobsWorkflow, ScheduledWorkflow],
        workflow_runner=UnsandboxedWorkflowRunner(),
        interceptors=interceptors,
        sticky_queue_schedule_to_start_timeout=STICKY,
        identity=identity,
        build_id=version(),
    )
    running = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        await worker.shutdown()
        await running
        await switch.flush()
