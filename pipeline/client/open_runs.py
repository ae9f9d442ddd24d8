"""Which runs are open, and which of them is the same request again."""

import asyncio
from dataclasses import dataclass

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from pipeline.planning.job import Ready
from pipeline.runs import plan_pages
from pipeline.runs.report import load_report
from pipeline.runs.requests import load_request, request_digest
from pipeline.stores import Store
from pipeline.workflows.run import PAUSED, RunWorkflow
from schemas import ids
from schemas.errors import NameTaken
from schemas.messages.run import RunResult
from schemas.plan import RunRequest, Selection

_LATEST = 3


@dataclass(frozen=True)
class OpenRun:
    """What Temporal says of a run that is open: `paused` is why, where it is."""

    handle: WorkflowHandle[RunWorkflow, RunResult]
    paused: str


async def open_run(client: Client, store: Store, request: RunRequest) -> OpenRun | None:
    """Where a run stands that has not ended; None for others. Asks no worker."""
    handle = client.get_workflow_handle_for(
        RunWorkflow.run, ids.run_workflow_id(request.pipeline, store.uri, request.run)
    )
    try:
        found = await handle.describe()
    except RPCError as exc:
        if exc.status == RPCStatusCode.NOT_FOUND:
            return None
        raise
    if found.status != WorkflowExecutionStatus.RUNNING:
        return None
    return OpenRun(handle, str((await found.memo()).get(PAUSED) or ""))


async def status_of(client: Client, pipeline: str, sink: str, run: str) -> WorkflowExecutionStatus | None:
    """What Temporal knows of a run; None where it knows nothing (any more)."""
    try:
        return (await client.get_workflow_handle(ids.run_workflow_id(pipeline, sink, run)).describe()).status
    except RPCError as exc:
        if exc.status == RPCStatusCode.NOT_FOUND:
            return None
        raise


def unfinished_requests(store: Store) -> tuple[list[RunRequest], list[RunRequest]]:
    """Requests without a final report, and the newest of those with one, newest first: a process may have died after
    the report was written and before its workflow had ended."""
    requests = [request for name in store.folders(ids.RUNS) if (request := load_request(store, name)) is not None]
    requests.sort(key=lambda request: request.created_at, reverse=True)
    reported = {request.run for request in requests if load_report(store, request.run) is not None}
    without = [request for request in requests if request.run not in reported]
    return without, [request for request in requests if request.run in reported][:_LATEST]


async def open_run_of_same_request(
    client: Client, ready: Ready, selection: Selection, partitions: set[str]
) -> RunRequest | None:
    """The pipeline's open run of the same request, which is then carried on. Raises NameTaken where another open run
    holds some of the same partitions."""
    store = ready.store
    wanted = request_digest(ready.spec, selection)
    open_ones, reported = await asyncio.to_thread(unfinished_requests, store)
    for request in reported:
        if request.digest == wanted and await _running(client, store, request):
            return request
    for request in open_ones:
        if request.digest == wanted:
            return request
        status = await status_of(client, request.pipeline, store.uri, request.run)
        held = await asyncio.to_thread(plan_pages.planned_partitions, store, request.run)
        if status == WorkflowExecutionStatus.RUNNING and (held is None or held & partitions):
            shown = min(held & partitions) if held else "its partitions"
            raise NameTaken(
                f"The run {request.run!r} of {request.pipeline!r} is open with another spec or selection, and holds "
                f"{shown}.",
                hint=f"Follow it with: tandem runs watch {request.run}, or end it: tandem runs cancel {request.run}",
            )
    return None


async def _running(client: Client, store: Store, request: RunRequest) -> bool:
    return await status_of(client, request.pipeline, store.uri, request.run) == WorkflowExecutionStatus.RUNNING
