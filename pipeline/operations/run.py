"""Run a pipeline: preflight, start or join, work, follow, report. The command line and Python share this code."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError

from pipeline.client import known_pipelines
from pipeline.client.connection import Connection, connected_if_running
from pipeline.client.follow import status_of_run
from pipeline.client.open_runs import open_run
from pipeline.client.preflight import preflight
from pipeline.client.repeated_request import open_run_of_same_request
from pipeline.client.run import Run
from pipeline.client.spec_file import sink_of
from pipeline.client.start import check_name, find_request, start_or_join
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
from pipeline.workflows.run import RunWorkflow
from schemas.errors import TandemError, by_code
from schemas.messages.run import RunOptions, RunResult
from schemas.plan import RunRequest, Selection
from schemas.spec.sections import Spec
from stages.stage_digests import code_digests


class RunEnded(TandemError):
    """A run's workflow was ended from outside, with Temporal's own tools."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """A requested run. `base` is the folder of relative paths; `spec_path`: the spec's file, which this folder
    remembers for the pipeline, None for a run whose spec was frozen before."""

    spec: Spec
    base: Path
    selection: Selection
    spec_path: Path | None = None
    name: str | None = None
    options: RunOptions = field(default_factory=RunOptions)
    max_cost_usd: float | None = None


def _untold(text: str) -> None:
    pass


def completed_report(order: Order) -> tuple[Store, Report] | None:
    """Return the report of a named run that is completed already, else None. Raises NameTaken if that was another
    request, UsageError for an invalid name."""
    if order.name is None:
        return None
    check_name(order.name)
    store = sink_of(order.spec, order.base)
    request = requests.load_request(store, order.name)
    report = load_report(store, order.name) if request is not None else None
    if request is None or report is None or report.state != "completed":
        return None
    requests.write_request(store, order.spec, order.base, order.selection, order.name)
    cleanup.try_to_sweep(store)  # no workflow runs that would
    return store, report


def prepare(order: Order) -> Ready:
    """Check everything that can be checked before any cost. Raises UsageError, ConnectionFailed, StoreError."""
    ready = preflight(order.spec, order.base, file=order.spec_path, calls=not order.selection.no_calls)
    load_schema(ready.store)  # a damaged one would fail each partition after its calls are paid for
    budget.refuse_unpriced(ready.job.spec, order.max_cost_usd)
    return ready


async def refuse_held(ready: Ready, order: Order, partitions: set[str]) -> None:
    """Raises NameTaken if another open run holds some of the partitions; a named run waits for them instead. Called
    before rows are read for the estimate."""
    if order.name is not None:
        return
    async with connected_if_running(order.base) as connection:
        if connection is not None:
            await open_run_of_same_request(connection.client, ready, order.selection, partitions)


async def start(
    connection: Connection, ready: Ready, order: Order, partitions: set[str], tell: Callable[[str], None] = _untold
) -> Run:
    """Start the run, or join or resume the one of the same name or request. `partitions`: those it will run. A run
    without a worker whose stage code has changed since its plan is planned again under its name; `tell` gets to know
    that this is waited for. Raises NameTaken."""
    if order.spec_path is not None:
        known_pipelines.remember(ready.spec.name, ready.store, ready.base, order.spec_path)
    request = await find_request(connection, ready, order.selection, order.name, partitions)
    outdated = await _end_outdated(connection, ready, request, tell)
    run = await start_or_join(
        connection, ready, request, order.options, order.max_cost_usd, takes_tier=order.spec_path is not None
    )
    return replace(run, began="replanned") if outdated else run


async def _end_outdated(connection: Connection, ready: Ready, request: RunRequest, tell: Callable[[str], None]) -> bool:
    """End an open run whose code has changed since its plan, if it is paused or has no worker. Return True if it was
    ended. Its answers are in the journal, from which the next run takes them."""
    plan = await asyncio.to_thread(latest_plan, ready.store, request.run)
    if plan is None or plan.code == await asyncio.to_thread(code_digests, ready.job.spec):
        return False
    live = await open_run(connection.client, ready.store, request)
    if live is None:
        return False
    abandoned = connection.embedded is not None and not dev_is_up(ready.base)
    if not (abandoned or live.paused):
        return False
    tell(f"Run {request.run} was planned with other stage code; waiting for its end, to plan it again.")
    await live.handle.cancel()
    async with closing_worker(connection, request):
        await live.handle.result()
    return True


@contextlib.asynccontextmanager
async def working_on(
    connection: Connection, pipeline: str, processes: Processes | None = None, *, with_worker: bool = False
) -> AsyncIterator[None]:
    """Run workers for a pipeline if the embedded server is used or `with_worker` is set; otherwise workers elsewhere do
    the work. They run in `processes`, or in this process without."""
    if connection.embedded is None and not with_worker:
        yield
        return
    queue = connection.queue(pipeline)
    if processes is not None:
        async with workers(connection, queue, processes):
            yield
        return
    from pipeline.worker import working  # the imports of activities, which a command leaves to its worker processes

    async with working(connection.client, queue):
        yield


async def final_report(run: Run) -> Report:
    """Return the report of a run that has ended. If its workflow could not write one, raises the reason; RunEnded if it
    was ended from outside."""
    report = await asyncio.to_thread(load_report, run.store, run.request.run)
    if report is None:
        status = await status_of_run(run) if run.handle is not None else None
        if run.handle is not None and status == WorkflowExecutionStatus.FAILED:
            raise await _failure_of(run.handle)
        state = status.name.lower() if status else "gone"
        raise RunEnded(
            f"The run {run.request.run!r} was ended from outside ({state}).", hint="Run it again to resume it."
        )
    return report


async def _failure_of(handle: WorkflowHandle[RunWorkflow, RunResult]) -> TandemError:
    """Return the error that kept a run's workflow from writing its report, for example a full sink."""
    cause: BaseException | None = None
    try:
        await handle.result()
    except WorkflowFailureError as exc:
        cause = exc.cause
        while cause is not None and not isinstance(cause, ApplicationError):
            cause = cause.__cause__
    if not isinstance(cause, ApplicationError):
        return RunEnded("The run failed, and Temporal gives no reason.", hint="Run it again to resume it.")
    hint = str(cause.details[0]) if cause.details else "Run it again to resume it."
    return by_code(cause.type or "")(cause.message, hint=hint)
