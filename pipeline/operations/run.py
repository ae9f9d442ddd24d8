"""Run a pipeline: look before money, start or join, work, follow, report. One road for the command line and Python."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError

from pipeline.client import known_pipelines
from pipeline.client.connection import Connection, connected_if_running
from pipeline.client.follow import status_of_run
from pipeline.client.open_runs import open_run, open_run_of_same_request
from pipeline.client.preflight import preflight, sink_of
from pipeline.client.start import Run, check_name, find_request, start_or_join
from pipeline.embedded.dev import dev_is_up
from pipeline.limits import budget
from pipeline.operations.control import closing_worker
from pipeline.planning.job import Ready
from pipeline.processes.supervisor import Processes, workers
from pipeline.publishing import cleanup
from pipeline.runs import requests
from pipeline.runs.plan_pages import latest_plan
from pipeline.runs.report import Report, load_report
from pipeline.sinks.schema import load_schema
from pipeline.stores import Store
from pipeline.worker import working
from pipeline.workflows.run import RunWorkflow
from schemas.errors import TandemError, by_code
from schemas.messages.run import RunOptions, RunResult
from schemas.plan import RunRequest, Selection
from schemas.spec.sections import Spec
from stages.stage_digests import code_digests


class RunEnded(TandemError):
    """A run's workflow was ended from outside, by Temporal's own means."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a person asks for. `base` is the folder of relative paths; `spec_path`: by which file this folder
    shall know the pipeline from now on, None for a run whose spec was frozen before."""

    spec: Spec
    base: Path
    selection: Selection
    spec_path: Path | None = None
    name: str | None = None
    options: RunOptions = field(default_factory=RunOptions)
    max_cost_usd: float | None = None


def completed_report(order: Order) -> tuple[Store, Report] | None:
    """The report of a named run that is completed already. Raises NameTaken where that was another request, UsageError
    for what is no name."""
    if order.name is None:
        return None
    check_name(order.name)
    store = sink_of(order.spec, order.base)
    request = requests.load_request(store, order.name)
    report = load_report(store, order.name) if request is not None else None
    if request is None or report is None or report.state != "completed":
        return None
    requests.write_request(store, order.spec, order.base, order.selection, order.name)
    cleanup.try_to_sweep(store)  # no workflow does
    return store, report


def prepare(order: Order) -> Ready:
    """All that can be wrong before money. Raises UsageError, ConnectionFailed, StoreError."""
    ready = preflight(order.spec, order.base, file=order.spec_path)
    load_schema(ready.store)  # a damaged one would fail each partition after its calls are paid for
    budget.refuse_unpriced(ready.job.spec, order.max_cost_usd)
    return ready


async def refuse_held(ready: Ready, order: Order, partitions: set[str]) -> None:
    """Before rows are read to say what a run would cost: raises NameTaken where another open run is at work on some of
    its partitions. A named run waits for them."""
    if order.name is not None:
        return
    async with connected_if_running(order.base) as found:
        if found is not None:
            await open_run_of_same_request(found.client, ready, order.selection, partitions)


async def start(found: Connection, ready: Ready, order: Order, partitions: set[str]) -> Run:
    """Start the run, or join or resume the one that is asked for. `partitions`: what it is about to work on. A run that
    nobody works on, and whose stages have other code than it was planned with, is planned anew under its name. Raises
    NameTaken."""
    if order.spec_path is not None:
        known_pipelines.remember(ready, order.spec_path)
    request = await find_request(found, ready, order.selection, order.name, partitions)
    outdated = await _ended_for_other_code(found, ready, request)
    run = await start_or_join(found, ready, request, order.options, order.max_cost_usd)
    return replace(run, began="replanned") if outdated else run


async def _ended_for_other_code(found: Connection, ready: Ready, request: RunRequest) -> bool:
    """End an open run whose code has changed since it was planned, where that is paused or nobody works on it: what it
    had answered is in the journal, and the run that follows takes it from there."""
    plan = await asyncio.to_thread(latest_plan, ready.store, request.run)
    if plan is None or plan.code == await asyncio.to_thread(code_digests, ready.job.spec):
        return False
    open_one = await open_run(found.client, ready.store, request)
    if open_one is None:
        return False
    abandoned = found.embedded is not None and not dev_is_up(ready.base)
    if not (abandoned or open_one.paused):
        return False
    await open_one.handle.cancel()
    async with closing_worker(found, request):
        await open_one.handle.result()
    return True


@contextlib.asynccontextmanager
async def working_on(
    found: Connection, pipeline: str, processes: Processes | None = None, *, with_worker: bool = False
) -> AsyncIterator[None]:
    """Work on a pipeline's runs where the embedded server is used, or `with_worker` asks for it; elsewhere workers
    of their own do. By `processes` of their own, or, without, in this one."""
    if found.embedded is None and not with_worker:
        yield
        return
    queue = found.queue(pipeline)
    async with working(found.client, queue) if processes is None else workers(found, queue, processes):
        yield


async def final_report(run: Run) -> Report:
    """The report of a run that has ended. Where its workflow could not write one, raises why; RunEnded where it was
    ended from outside."""
    report = await asyncio.to_thread(load_report, run.store, run.request.run)
    if report is None:
        status = await status_of_run(run) if run.handle is not None else None
        if run.handle is not None and status == WorkflowExecutionStatus.FAILED:
            raise await _failure_of(run.handle)
        how = status.name.lower() if status else "gone"
        raise RunEnded(f"The run {run.request.run!r} was ended from outside ({how}).", hint="Run it again to carry on.")
    return report


async def _failure_of(handle: WorkflowHandle[RunWorkflow, RunResult]) -> TandemError:
    """What kept a run's workflow from writing its report: a sink that is full, for example."""
    cause: BaseException | None = None
    try:
        await handle.result()
    except WorkflowFailureError as exc:
        cause = exc.cause
        while cause is not None and not isinstance(cause, ApplicationError):
            cause = cause.__cause__
    if not isinstance(cause, ApplicationError):
        return RunEnded("The run failed, and Temporal does not say why.", hint="Run it again to carry on.")
    hint = str(cause.details[0]) if cause.details else "Run it again to carry on."
    return by_code(cause.type or "")(cause.message, hint=hint)
