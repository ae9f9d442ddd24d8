"""Find, start and join runs, for `tandem run` and `pipeline.api.run`."""

import asyncio
import datetime as dt
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
from pipeline.client.open_runs import status_of
from pipeline.client.repeated_request import open_run_of_same_request
from pipeline.client.run import Run
from pipeline.limits import budget
from pipeline.limits.live_limits import load_limits, save_limits
from pipeline.planning.job import Ready
from pipeline.runs.progress import usage_so_far
from pipeline.runs.report import load_report
from pipeline.runs.requests import load_spec_of, new_run_name, write_request
from pipeline.stores import Store
from pipeline.workflows.policies import WORKFLOW_TASK, fair_share
from pipeline.workflows.run import RunWorkflow
from schemas import ids
from schemas.errors import UsageError
from schemas.messages.base import RunRef
from schemas.messages.run import RunInput, RunOptions, RunResult, SetLimits
from schemas.plan import RunRequest, Selection
from schemas.spec.sections import Spec
from schemas.spec.tiers import uniform_tier
from stages.stage_digests import code_digests, code_of

_AS_SPECIFIED = RunOptions()
_ATTRIBUTES = ("TandemPipeline", "TandemRun", "TandemState")


def check_name(name: str) -> None:
    if not ids.RUN_NAME.match(name):
        raise UsageError(
            f"--name {name!r} is not a valid name for a run.",
            hint="Use letters, digits, '.', '_' and '-', at most 100, beginning with a letter or a digit.",
        )


async def find_request(
    connection: Connection, ready: Ready, selection: Selection, name: str | None, partitions: set[str]
) -> RunRequest:
    """Return the request of the run to start: of this name, or of the pipeline's open run of an equal request, else a
    new one. `partitions` are those it will run. Raises NameTaken."""
    request = None
    if name is None:
        request = await open_run_of_same_request(connection.client, ready, selection, partitions)
    else:
        check_name(name)
    if request is None:
        run = name or new_run_name(dt.datetime.now(dt.UTC))
        request = await asyncio.to_thread(write_request, ready.store, ready.spec, ready.base, selection, run)
    return request


async def start_or_join(
    connection: Connection,
    ready: Ready,
    request: RunRequest,
    options: RunOptions = _AS_SPECIFIED,
    max_cost_usd: float | None = None,
    *,
    takes_tier: bool = False,
) -> Run:
    """Join an open run, resume one that is paused or ended unfinished, or start a new one; a completed run gets no
    handle, as its report is all there is. `takes_tier`: its calls from now on are paid as the spec says."""
    store, spec = ready.store, ready.spec
    report = await asyncio.to_thread(load_report, store, request.run)
    status = await status_of(connection.client, request.pipeline, store.uri, request.run)
    if report is not None and report.state == "completed" and status != WorkflowExecutionStatus.RUNNING:
        return Run(request, store, None, "completed")
    began = {None: "started", WorkflowExecutionStatus.RUNNING: "joined"}.get(status, "resumed")
    if began == "started" and report is not None:
        began = "resumed"
    spent = partial(usage_so_far, store, request.run)
    await asyncio.to_thread(budget.declare, store, request.run, spec.limits, spent, max_cost_usd)
    if takes_tier:
        await asyncio.to_thread(_take_tier, store, request, spec)
    code = await asyncio.to_thread(lambda: code_of(code_digests(ready.job.spec)))
    handle = await start(connection, store, request, options, code)
    if began == "joined":
        await handle.signal(RunWorkflow.resume)  # in case it is paused, which is unknown while no worker answers
    return Run(request, store, handle, began)


def _take_tier(store: Store, request: RunRequest, spec: Spec) -> None:
    """Note the price tier of the spec where it differs from that of the run's own, which may be older."""
    tier = uniform_tier(spec)
    known = load_limits(store, request.run).tier or uniform_tier(load_spec_of(store, request.spec))
    if tier is not None and tier != known:
        save_limits(store, request.run, SetLimits(tier=tier))


async def start(
    connection: Connection, store: Store, request: RunRequest, options: RunOptions = _AS_SPECIFIED, code: str = ""
) -> WorkflowHandle[RunWorkflow, RunResult]:
    """Start a run's workflow, or find it open. `code`: see RunInput."""
    queue = connection.queue(request.pipeline)
    ref = RunRef(pipeline=request.pipeline, run=request.run, sink=store.uri)
    return await connection.client.start_workflow(
        RunWorkflow.run,
        RunInput(ref=ref, request=ids.request(request.run), task_queue=queue, course=options, code=code),
        id=ids.run_workflow_id(request.pipeline, store.uri, request.run),
        task_queue=queue,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        search_attributes=_attributes(request) if connection.search_attributes else None,
        priority=fair_share(ref),
        static_summary=f"{request.pipeline}: {request.run}",
        task_timeout=WORKFLOW_TASK if connection.embedded is not None else None,
    )


def _attributes(request: RunRequest) -> TypedSearchAttributes:
    values = (request.pipeline, request.run, "running")
    keys = (SearchAttributeKey.for_keyword(name) for name in _ATTRIBUTES)
    return TypedSearchAttributes([SearchAttributePair(k, v) for k, v in zip(keys, values, strict=True)])
