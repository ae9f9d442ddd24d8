"""Starting, finding and following runs: what `tandem run` and `pipeline.api.run` have in common."""

import asyncio
import datetime as dt
from dataclasses import dataclass
from functools import partial

from temporalio.client import WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import (
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)

from pipeline.client.connection import Connection
from pipeline.client.open_runs import open_run_of_same_request, status_of
from pipeline.limits import budget
from pipeline.planning.job import Ready
from pipeline.runs.progress import usage_so_far
from pipeline.runs.report import load_report
from pipeline.runs.requests import new_run_name, write_request
from pipeline.stores import Store
from pipeline.workflows.policies import fair_share
from pipeline.workflows.run import RunWorkflow
from schemas import ids
from schemas.errors import UsageError
from schemas.messages.base import RunRef
from schemas.messages.run import RunInput, RunOptions, RunResult
from schemas.plan import RunRequest, Selection

_AS_SPECIFIED = RunOptions()
_ATTRIBUTES = ("TandemPipeline", "TandemRun", "TandemState")


@dataclass(frozen=True)
class Run:
    """A run that this process may follow. `began`: how it came to be followed."""

    request: RunRequest
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
    engine: Connection,
    ready: Ready,
    selection: Selection,
    name: str | None,
    partitions: set[str],
    course: RunOptions = _AS_SPECIFIED,
    max_cost_usd: float | None = None,
) -> Run:
    """The run that is asked for: joined where it runs, resumed where it is paused or ended unfinished, its report where
    it is completed, started where it is new. `partitions` are those it is about to work on. Raises NameTaken."""
    store, spec = ready.store, ready.spec
    if name is None:
        request = await open_run_of_same_request(engine.client, ready, selection, partitions)
    else:
        check_name(name)
        request = None
    if request is None:
        given = name or new_run_name(dt.datetime.now(dt.UTC))
        request = await asyncio.to_thread(write_request, store, spec, ready.base, selection, given)
    report = await asyncio.to_thread(load_report, store, request.run)
    status = await status_of(engine.client, request.pipeline, store.uri, request.run)
    if report is not None and report.state == "completed" and status != WorkflowExecutionStatus.RUNNING:
        return Run(request, store, None, "completed")
    began = {None: "started", WorkflowExecutionStatus.RUNNING: "joined"}.get(status, "resumed")
    if began == "started" and report is not None:
        began = "resumed"
    spent = partial(usage_so_far, store, request.run)
    await asyncio.to_thread(budget.declare, store, request.run, spec.limits, spent, max_cost_usd)
    handle = await start(engine, store, request, course)
    if began == "joined":
        await handle.signal(RunWorkflow.resume)  # in case it is paused; who could tell, while no worker answers?
    return Run(request, store, handle, began)


async def start(
    engine: Connection, store: Store, request: RunRequest, course: RunOptions = _AS_SPECIFIED
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


def _attributes(request: RunRequest) -> TypedSearchAttributes:
    values = (request.pipeline, request.run, "running")
    keys = (SearchAttributeKey.for_keyword(name) for name in _ATTRIBUTES)
    return TypedSearchAttributes([SearchAttributePair(k, v) for k, v in zip(keys, values, strict=True)])


# Open runs ---------------------------------------------------------------------------------------------------------


# Following ---------------------------------------------------------------------------------------------------------
