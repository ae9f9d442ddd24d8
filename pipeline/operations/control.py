"""Pause, resume, cancel and change a live run."""

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path

from temporalio.client import WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError

from pipeline.client.connection import Connection, connected
from pipeline.client.follow import progress_of
from pipeline.client.open_runs import OpenRun, open_run
from pipeline.embedded.server import EmbeddedServer
from pipeline.limits import budget
from pipeline.processes.take_over import release_from_the_dead
from pipeline.runs import requests
from pipeline.runs.report import load_report
from pipeline.settings import expanded, home_of, temporal_configured
from pipeline.stores import Store
from pipeline.workflows.activity_calls import cause_of
from pipeline.workflows.run import RunWorkflow
from schemas.errors import ConnectionFailed, UsageError
from schemas.messages.run import SetLimits
from schemas.plan import RunRequest

_ANSWER_WITHIN = dt.timedelta(seconds=15)
_LOOKS = 50
_LOOK_EVERY_S = 0.1


async def pause(connection: Connection | None, store: Store, request: RunRequest, reason: str) -> bool:
    """Pause a run: it starts nothing new, running batches finish. Return True if a worker has received it within some
    seconds. Raises UsageError for a run that has ended, ConnectionFailed."""
    run = await live_run(connection, store, request)
    await run.handle.signal(RunWorkflow.pause, reason)
    for _ in range(_LOOKS):
        live = await open_run(connection.client, store, request) if connection else None
        if live is None or live.paused:  # a run that has ended meanwhile counts as paused
            return True
        await asyncio.sleep(_LOOK_EVERY_S)
    return False


async def resume(connection: Connection | None, store: Store, request: RunRequest) -> bool:
    """Resume a paused run. Return True if a worker runs it; otherwise the caller must start one."""
    run = await open_run(connection.client, store, request) if connection else None
    if run is None:
        return False
    await run.handle.signal(RunWorkflow.resume)
    return temporal_configured() or await progress_of(run.handle) is not None


@contextlib.asynccontextmanager
async def cancelled(base: Path, store: Store, request: RunRequest) -> AsyncIterator[Connection]:
    """Cancel a run and wait until it has ended: after that nothing is committed. An open run on the embedded server may
    have no worker; then a worker is started here that closes it without any model call. Raises UsageError for a run
    that has ended."""
    if await asyncio.to_thread(load_report, store, request.run) and not _server_is_up(base):
        raise has_ended(request)
    async with connected(base) as connection:
        run = await open_run(connection.client, store, request)
        if run is None:
            raise has_ended(request)
        await run.handle.cancel()
        async with closing_worker(connection, request):
            await run.handle.result()
        yield connection


async def set_limits(connection: Connection | None, store: Store, request: RunRequest, limits: SetLimits) -> None:
    """Change the limits of a live run. Raises UsageError if the run refuses, ConnectionFailed if no worker answers."""
    run = await live_run(connection, store, request)
    if limits.max_cost_usd is not None:
        await asyncio.to_thread(refuse_unpriced, store, request, limits.max_cost_usd)
    try:
        await run.handle.execute_update(RunWorkflow.set_limits, limits, rpc_timeout=_ANSWER_WITHIN)
    except WorkflowUpdateFailedError as exc:
        raise UsageError(cause_of(exc.cause or exc)[1]) from None
    except WorkflowUpdateRPCTimeoutOrCancelledError:
        raise ConnectionFailed(
            f"No worker answers for the run {request.run!r} now.", hint="Try again when a worker runs it."
        ) from None


def changes_of(limits: SetLimits) -> dict[str, int | float]:
    """Return the limits that are changed, by the names of their flags."""
    named = {
        "max_active": limits.partitions,
        "rows_in_flight": limits.rows_in_flight,
        "max_cost": limits.max_cost_usd,
    }
    return {flag: value for flag, value in named.items() if value is not None}


def changes_text(request: RunRequest, limits: SetLimits) -> str:
    """Return the sentence about limits that were changed."""
    values = ", ".join(f"{flag} = {value:,}" for flag, value in changes_of(limits).items())
    return f"{request.run}: {values}, until the run has ended."


def paused_text(request: RunRequest, *, received: bool) -> str:
    """Return the sentence about a run that was paused."""
    later = "" if received else " as soon as a worker receives it"
    return f"{request.run} is paused{later}; running batches finish. Resume it: tandem runs resume {request.run}"


async def live_run(connection: Connection | None, store: Store, request: RunRequest) -> OpenRun:
    """Return an open run. Raises UsageError if it has ended, ConnectionFailed."""
    if await asyncio.to_thread(load_report, store, request.run) and connection is None:
        raise has_ended(request)
    if connection is None:
        raise ConnectionFailed(
            "No Temporal server runs here, so no worker runs this run.",
            hint=f"Resume it with: tandem runs resume {request.run}; or cancel it: tandem runs cancel {request.run}",
        )
    run = await open_run(connection.client, store, request)
    if run is None:
        raise has_ended(request)
    return run


def refuse_unpriced(store: Store, request: RunRequest, max_cost_usd: float) -> None:
    """Raise SpecError if a model of the run has no price, so that no budget can hold."""
    budget.refuse_unpriced(expanded(requests.load_spec_of(store, request.spec)), max_cost_usd)


def has_ended(request: RunRequest) -> UsageError:
    return UsageError(f"The run {request.run!r} has ended.", hint=f"See: tandem runs show {request.run}")


def _server_is_up(base: Path) -> bool:
    return temporal_configured() or EmbeddedServer.in_use(home_of(base)) is not None


@contextlib.asynccontextmanager
async def closing_worker(connection: Connection, request: RunRequest) -> AsyncIterator[None]:
    if connection.embedded is None:
        yield
        return
    from pipeline.worker import working  # a second of imports, which other operations avoid

    queue = connection.queue(request.pipeline)
    await release_from_the_dead(connection.client, queue)
    async with working(connection.client, queue) as worker:
        worker.drain()  # batches are handed back without a call; partitions are fenced and the run is closed
        yield
