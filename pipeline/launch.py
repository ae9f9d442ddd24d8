"""Starting, finding and following runs: what `tandem run` and `pipeline.api.run` have in common."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import dataclass

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle, WorkflowQueryFailedError
from temporalio.common import (
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.service import RPCError, RPCStatusCode

from pipeline import budgets, plans, reports
from pipeline.engine import Engine
from pipeline.policies import fair_share
from pipeline.preflight import Ready
from pipeline.reports import Report
from pipeline.standing import standing_report
from pipeline.stores import Store
from pipeline.workflows.run import PAUSED, RunWorkflow
from schemas import ids
from schemas.errors import ConnectionFailed, NameTaken, UsageError
from schemas.messages.base import RunRef, RunState
from schemas.messages.run import Course, Progress, RunInput, RunResult
from schemas.plan import Request, Selection

_SERVER_AWAY_S = 60.0
_AWAY = (RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED)
_LATEST = 3
_AS_SPECIFIED = Course()
_ATTRIBUTES = ("TandemPipeline", "TandemRun", "TandemState")


@dataclass(frozen=True)
class Run:
    """A run that this process may follow. `began`: how it came to be followed."""

    request: Request
    store: Store
    handle: WorkflowHandle[RunWorkflow, RunResult] | None
    began: str

    @property
    def ref(self) -> RunRef:
        return RunRef(pipeline=self.request.pipeline, run=self.request.run, sink=self.store.uri)


def check_name(name: str) -> None:
    if not ids.RUN_NAME.match(name):
        raise UsageError(
            f"--name {name!r} is no name for a run.",
            hint="Use letters, digits, '.', '_' and '-', at most 100, beginning with a letter or a digit.",
        )


async def find_or_start(
    engine: Engine,
    ready: Ready,
    selection: Selection,
    name: str | None,
    partitions: set[str],
    course: Course = _AS_SPECIFIED,
    max_cost_usd: float | None = None,
) -> Run:
    """The run that is asked for: joined where it runs, resumed where it is paused or ended unfinished, its report where
    it is completed, started where it is new. `partitions` are those it is about to work on. Raises NameTaken."""
    store, spec = ready.store, ready.spec
    if name is None:
        request = await _open_twin(engine.client, ready, selection, partitions)
    else:
        check_name(name)
        request = None
    if request is None:
        given = name or plans.new_run_name(dt.datetime.now(dt.UTC))
        request = await asyncio.to_thread(plans.write_request, store, spec, ready.base, selection, given)
    report = await asyncio.to_thread(reports.load_report, store, request.run)
    status = await status_of(engine.client, request.pipeline, store.uri, request.run)
    if report is not None and report.state == "completed" and status != WorkflowExecutionStatus.RUNNING:
        return Run(request, store, None, "completed")
    began = {None: "started", WorkflowExecutionStatus.RUNNING: "joined"}.get(status, "resumed")
    if began == "started" and report is not None:
        began = "resumed"
    await asyncio.to_thread(budgets.declare, store, request.run, spec.limits, max_cost_usd)
    handle = await start(engine, store, request, course)
    if began == "joined":
        await handle.signal(RunWorkflow.resume)  # in case it is paused; who could tell, while no worker answers?
    return Run(request, store, handle, began)


async def start(
    engine: Engine, store: Store, request: Request, course: Course = _AS_SPECIFIED
) -> WorkflowHandle[RunWorkflow, RunResult]:
    queue = engine.queue(request.pipeline)
    ref = RunRef(pipeline=request.pipeline, run=request.run, sink=store.uri)
    return await engine.client.start_workflow(
        RunWorkflow.run,
        RunInput(ref=ref, request=ids.request(request.run), task_queue=queue, course=course),
        id=ids.run_workflow_id(request.pipeline, store.uri, request.run),
        task_queue=queue,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        search_attributes=_attributes(request) if engine.search_attributes else None,
        priority=fair_share(ref),
        static_summary=f"{request.pipeline}: {request.run}",
    )


def _attributes(request: Request) -> TypedSearchAttributes:
    values = (request.pipeline, request.run, "running")
    keys = (SearchAttributeKey.for_keyword(name) for name in _ATTRIBUTES)
    return TypedSearchAttributes([SearchAttributePair(k, v) for k, v in zip(keys, values, strict=True)])


@dataclass(frozen=True)
class Standing:
    """What Temporal says of a run that is open: `paused` is why, where it is."""

    handle: WorkflowHandle[RunWorkflow, RunResult]
    paused: str


async def open_run(client: Client, store: Store, request: Request) -> Standing | None:
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
    return Standing(handle, str((await found.memo()).get(PAUSED) or ""))


async def status_of(client: Client, pipeline: str, sink: str, run: str) -> WorkflowExecutionStatus | None:
    """What Temporal knows of a run; None where it knows nothing (any more)."""
    try:
        return (await client.get_workflow_handle(ids.run_workflow_id(pipeline, sink, run)).describe()).status
    except RPCError as exc:
        if exc.status == RPCStatusCode.NOT_FOUND:
            return None
        raise


# Open runs ---------------------------------------------------------------------------------------------------------


def unfinished(store: Store) -> tuple[list[Request], list[Request]]:
    """Requests without a final report, and the newest of those with one, newest first: a process may have died after
    the report was written and before its workflow had ended."""
    requests = [request for name in store.folders(ids.RUNS) if (request := plans.load_request(store, name)) is not None]
    requests.sort(key=lambda request: request.created_at, reverse=True)
    reported = {request.run for request in requests if reports.load_report(store, request.run) is not None}
    without = [request for request in requests if request.run not in reported]
    return without, [request for request in requests if request.run in reported][:_LATEST]


async def _open_twin(client: Client, ready: Ready, selection: Selection, partitions: set[str]) -> Request | None:
    """The pipeline's open run of the same request, which is then carried on. Raises NameTaken where another open run
    holds some of the same partitions."""
    store = ready.store
    wanted = plans.request_digest(ready.spec, selection)
    open_ones, reported = await asyncio.to_thread(unfinished, store)
    for request in reported:
        if request.digest == wanted and await _running(client, store, request):
            return request
    for request in open_ones:
        if request.digest == wanted:
            return request
        status = await status_of(client, request.pipeline, store.uri, request.run)
        held = await asyncio.to_thread(plans.planned_partitions, store, request.run)
        if status == WorkflowExecutionStatus.RUNNING and (held is None or held & partitions):
            shown = min(held & partitions) if held else "its partitions"
            raise NameTaken(
                f"The run {request.run!r} of {request.pipeline!r} is open with another spec or selection, and holds "
                f"{shown}.",
                hint=f"Follow it with: tandem runs watch {request.run}, or end it: tandem runs cancel {request.run}",
            )
    return None


async def _running(client: Client, store: Store, request: Request) -> bool:
    return await status_of(client, request.pipeline, store.uri, request.run) == WorkflowExecutionStatus.RUNNING


def running_report(run: Run) -> Report:
    """What is known of a run that has not ended."""
    return standing_report(run.store, run.request)


# Following ---------------------------------------------------------------------------------------------------------


async def follow(run: Run, *, every_s: float = 0.5) -> AsyncIterator[Progress]:
    """Progress as it changes, until the run has ended. Rows of batches at work are counted by their heartbeats."""
    assert run.handle is not None
    while True:
        ended = await _ended(run.handle)
        progress = await progress_of(run.handle)
        if progress is not None:
            yield progress
        if ended:
            return
        await asyncio.sleep(every_s)


async def _ended(handle: WorkflowHandle[RunWorkflow, RunResult]) -> bool:
    """A server that is away for a minute is waited for. Raises ConnectionFailed."""
    until = asyncio.get_running_loop().time() + _SERVER_AWAY_S
    while True:
        try:
            return (await handle.describe()).status != WorkflowExecutionStatus.RUNNING
        except RPCError as exc:
            if exc.status not in _AWAY:
                raise
            if asyncio.get_running_loop().time() > until:
                raise ConnectionFailed(
                    "Temporal does not answer any more.", hint="The run is safe; the same command carries it on."
                ) from exc
        await asyncio.sleep(1)


async def progress_of(handle: WorkflowHandle[RunWorkflow, RunResult]) -> Progress | None:
    try:
        return await handle.query(RunWorkflow.progress, rpc_timeout=dt.timedelta(seconds=5))
    except (RPCError, WorkflowQueryFailedError):
        return None  # no worker answers just now; the run goes on when one does


async def final_state(run: Run) -> RunState:
    """The state in which a run's workflow ended, where it left no report (terminated, timed out)."""
    status = await status_of_run(run)
    return "cancelled" if status in _CANCELLED else "failed"


_CANCELLED = (WorkflowExecutionStatus.CANCELED, WorkflowExecutionStatus.TERMINATED)


async def status_of_run(run: Run) -> WorkflowExecutionStatus | None:
    assert run.handle is not None
    return (await run.handle.describe()).status
