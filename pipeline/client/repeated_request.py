"""Find the open run of a repeated request."""

import asyncio

from temporalio.client import Client, WorkflowExecutionStatus

from pipeline.client.open_runs import status_of
from pipeline.planning.job import Ready
from pipeline.runs import plan_pages
from pipeline.runs.report import load_report
from pipeline.runs.requests import load_request, request_digest
from pipeline.stores import Store
from schemas import ids
from schemas.errors import NameTaken
from schemas.plan import RunRequest, Selection

_LATEST = 3


def unfinished_requests(store: Store) -> tuple[list[RunRequest], list[RunRequest]]:
    """Return requests without a final report, and the newest with one, each newest first: a process may have died
    after its report was written and before its workflow ended."""
    requests = [request for name in store.folders(ids.RUNS) if (request := load_request(store, name)) is not None]
    requests.sort(key=lambda request: request.created_at, reverse=True)
    reported = {request.run for request in requests if load_report(store, request.run) is not None}
    without = [request for request in requests if request.run not in reported]
    return without, [request for request in requests if request.run in reported][:_LATEST]


async def open_run_of_same_request(
    client: Client, ready: Ready, selection: Selection, partitions: set[str]
) -> RunRequest | None:
    """Return the pipeline's open run of the same request, to resume it. Raises NameTaken if another open run holds some
    of the same partitions."""
    store = ready.store
    digest = request_digest(ready.spec, selection)
    unreported, reported = await asyncio.to_thread(unfinished_requests, store)
    for request in reported:
        if request.digest == digest and await _running(client, store, request):
            return request
    for request in unreported:
        if request.digest == digest:
            return request
        status = await status_of(client, request.pipeline, store.uri, request.run)
        held = await asyncio.to_thread(plan_pages.planned_partitions, store, request.run)
        if status == WorkflowExecutionStatus.RUNNING and (held is None or held & partitions):
            example = min(held & partitions) if held else "its partitions"
            raise NameTaken(
                f"The run {request.run!r} of {request.pipeline!r} is open with another spec or selection, and holds "
                f"{example}.",
                hint=f"Follow it with: tandem runs watch {request.run}, or cancel it: tandem runs cancel {request.run}",
            )
    return None


async def _running(client: Client, store: Store, request: RunRequest) -> bool:
    return await status_of(client, request.pipeline, store.uri, request.run) == WorkflowExecutionStatus.RUNNING
