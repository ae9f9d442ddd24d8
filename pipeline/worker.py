"""The composition root: the Temporal workers of one process, with the shared state of their activities."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from temporalio.client import Client
from temporalio.worker import Interceptor, Worker

from pipeline.activities.registered import Activities
from pipeline.activities.short_work import ActivityThreads
from pipeline.orchestration import leasing, orchestrating
from pipeline.publishing import cleanup
from pipeline.settings import version
from pipeline.workflows.policies import GRACE, HEARTBEAT_EVERY
from stages.mcp_servers.sessions import close_servers
from stages.models.callbacks import TRACING, flush_tracers
from stages.models.langchain.own_models import journal_own_models
from stages.models.wires.http import close_session

log = logging.getLogger("tandem.worker")
MAX_ACTIVITIES = 32
_THREADS = 128


@dataclass
class RunningWorker:
    """A running worker. `drain` makes it hand its batches back: finish rows in flight, flush the journal."""

    activities: Activities

    def drain(self) -> None:
        self.activities.drain.set()


@asynccontextmanager
async def working(client: Client, queue: str) -> AsyncIterator[RunningWorker]:
    """Run all workflows and activities of a task queue in this process until the block ends, then drain."""
    activities = Activities()
    limiters = activities.jobs.services.limiters
    async with orchestrating(client, queue), leasing(client, limiters), enriching(client, queue, activities):
        yield RunningWorker(activities)


@asynccontextmanager
async def enriching(
    client: Client,
    queue: str,
    activities: Activities,
    interceptors: Sequence[Interceptor] = (),
    identity: str | None = None,
) -> AsyncIterator[None]:
    """Run the activities of a task queue, user code included, until the block ends, then drain."""
    _trace_only_if_switched_on()
    journal_own_models()
    # Synchronous nodes of users' graphs take a thread each, beside Tandem's reads and writes.
    asyncio.get_running_loop().set_default_executor(ActivityThreads(_THREADS))
    worker = Worker(
        client,
        task_queue=queue,
        activities=activities.all(),
        interceptors=interceptors,
        max_concurrent_activities=MAX_ACTIVITIES,
        graceful_shutdown_timeout=GRACE,
        max_heartbeat_throttle_interval=HEARTBEAT_EVERY,
        default_heartbeat_throttle_interval=HEARTBEAT_EVERY,
        identity=identity,
        build_id=version(),
    )
    running = asyncio.create_task(worker.run())
    sweeping = asyncio.create_task(cleanup.sweep_periodically(activities.jobs.stores))
    try:
        yield
    finally:
        activities.drain.set()
        await worker.shutdown()
        await running
        sweeping.cancel()
        await asyncio.gather(sweeping, return_exceptions=True)
        await flush_tracers()
        await close_servers()
        await close_session()


def _trace_only_if_switched_on() -> None:
    """Switch LangSmith off, which langgraph imports, unless the user has decided: it must send no rows by itself."""
    if not any(os.environ.get(name) for name in TRACING):  # the first that is set decides: none beside another
        os.environ[TRACING[0]] = "false"
