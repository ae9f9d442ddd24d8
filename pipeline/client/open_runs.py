"""Find open runs."""

from dataclasses import dataclass

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from pipeline.stores import Store
from pipeline.workflows.run import PAUSED, RunWorkflow
from schemas import ids
from schemas.messages.run import RunResult
from schemas.plan import RunRequest


@dataclass(frozen=True)
class OpenRun:
    """An open run of Temporal. `paused` is the reason of a pause, empty if it is not paused."""

    handle: WorkflowHandle[RunWorkflow, RunResult]
    paused: str


async def open_run(client: Client, store: Store, request: RunRequest) -> OpenRun | None:
    """Return a run that has not ended, None for others. Needs no worker."""
    handle = client.get_workflow_handle_for(
        RunWorkflow.run, ids.run_workflow_id(request.pipeline, store.uri, request.run)
    )
    try:
        description = await handle.describe()
    except RPCError as exc:
        if exc.status == RPCStatusCode.NOT_FOUND:
            return None
        raise
    if description.status != WorkflowExecutionStatus.RUNNING:
        return None
    return OpenRun(handle, str((await description.memo()).get(PAUSED) or ""))


async def status_of(client: Client, pipeline: str, sink: str, run: str) -> WorkflowExecutionStatus | None:
    """Return Temporal's status of a run; None if it does not know the run (any more)."""
    try:
        return (await client.get_workflow_handle(ids.run_workflow_id(pipeline, sink, run)).describe()).status
    except RPCError as exc:
        if exc.status == RPCStatusCode.NOT_FOUND:
            return None
        raise
