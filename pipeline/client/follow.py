"""Follow a run until its end."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator

from temporalio.client import WorkflowExecutionStatus, WorkflowHandle, WorkflowQueryFailedError
from temporalio.service import RPCError, RPCStatusCode

from pipeline.client.run import Run
from pipeline.workflows.run import RunWorkflow
from schemas.errors import ConnectionFailed
from schemas.messages.base import RunState
from schemas.messages.run import Progress, RunResult

_SERVER_AWAY_S = 60.0
_AWAY = (RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED)


async def follow(run: Run, *, every_s: float = 0.5) -> AsyncIterator[Progress]:
    """Yield the progress of a run until it has ended. Rows of running partitions are not included."""
    assert run.handle is not None
    ending = asyncio.create_task(run.handle.result())
    told = False  # that it is done, for any reason: the run's end, or a server that was away
    try:
        while True:
            ended = await _ended(run.handle)
            progress = await progress_of(run.handle)
            if progress is not None:
                yield progress
            if ended:
                return
            if told:
                await asyncio.sleep(every_s)
            else:
                await asyncio.wait([ending], timeout=every_s)
                told = ending.done()
    finally:
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)


async def _ended(handle: WorkflowHandle[RunWorkflow, RunResult]) -> bool:
    """True if the run has ended. Waits a minute for a server that does not answer, then raises ConnectionFailed."""
    until = asyncio.get_running_loop().time() + _SERVER_AWAY_S
    while True:
        try:
            return (await handle.describe()).status != WorkflowExecutionStatus.RUNNING
        except RPCError as exc:
            if exc.status not in _AWAY:
                raise
            if asyncio.get_running_loop().time() > until:
                raise ConnectionFailed(
                    "Temporal does not answer any more.", hint="The run is safe; the same command resumes it."
                ) from exc
        await asyncio.sleep(1)


async def progress_of(handle: WorkflowHandle[RunWorkflow, RunResult]) -> Progress | None:
    try:
        return await handle.query(RunWorkflow.progress, rpc_timeout=dt.timedelta(seconds=5))
    except (RPCError, WorkflowQueryFailedError):
        return None  # no worker answers just now; the run goes on when one does


async def final_state(run: Run) -> RunState:
    """Return the final state of a run whose workflow wrote no report (terminated, timed out)."""
    status = await status_of_run(run)
    return "cancelled" if status in _CANCELLED else "failed"


_CANCELLED = (WorkflowExecutionStatus.CANCELED, WorkflowExecutionStatus.TERMINATED)


async def status_of_run(run: Run) -> WorkflowExecutionStatus | None:
    assert run.handle is not None
    return (await run.handle.describe()).status
