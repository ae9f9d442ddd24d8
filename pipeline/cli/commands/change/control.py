"""`tandem runs pause|resume|cancel|retry|set`: live control. Of these only `resume` and `retry` go on spending."""

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from temporalio.client import WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError

from pipeline.cli.commands.find_run import find_run, report_of
from pipeline.cli.commands.work.run import RunFlags, run_spec
from pipeline.cli.screen.console import Screen, counted
from pipeline.cli.screen.results import summary
from pipeline.client.connection import Connection, connected, connected_if_running
from pipeline.client.follow import progress_of
from pipeline.client.open_runs import OpenRun, open_run
from pipeline.embedded.server import EmbeddedServer
from pipeline.limits import budget
from pipeline.outputs.rejects import Rejects, all_rejects, to_ask_again, void_all
from pipeline.runs import requests
from pipeline.runs.report import as_json, load_report
from pipeline.runs.retry import Only, to_retry
from pipeline.settings import expanded, home_of, temporal_configured
from pipeline.stores import Store
from pipeline.workflows.activity_calls import cause_of
from pipeline.workflows.run import RunWorkflow
from schemas.errors import ConnectionFailed, UsageError
from schemas.messages.run import SetLimits
from schemas.plan import RunRequest, Selection

_ANSWER_WITHIN = dt.timedelta(seconds=15)
_LOOKS = 50


async def pause_command(wanted: str | None, reason: str, screen: Screen) -> int:
    """Nothing new is begun, batches at work finish; returns once the run has taken it."""
    store, request = await asyncio.to_thread(find_run, wanted)
    async with connected_if_running(Path.cwd()) as found:
        standing = await _live(found, store, request)
        await standing.handle.signal(RunWorkflow.pause, reason)
        taken = await _is_paused(found, store, request)
        await _told(found, store, request, screen, json_only=True)
    later = "" if taken else " as soon as a worker hears of it"
    screen.say(f"{request.run} is paused{later}; batches at work finish. Go on: tandem runs resume {request.run}")
    return 0


async def _is_paused(found: Connection | None, store: Store, request: RunRequest) -> bool:
    """Wait a little until a worker has taken it; one that ended meanwhile counts."""
    for _ in range(_LOOKS):
        standing = await open_run(found.client, store, request) if found else None
        if standing is None or standing.paused:
            return True
        await asyncio.sleep(0.1)
    return False


async def resume_command(wanted: str | None, max_cost_usd: float | None, screen: Screen, *, wait: bool) -> int:
    """Let a run go on: one that was paused, by telling it; one that nothing works on, by working on it here. A higher
    budget is written down first."""
    store, request = await asyncio.to_thread(find_run, wanted)
    spec = await asyncio.to_thread(requests.load_spec_of, store, request.spec)
    done = await asyncio.to_thread(load_report, store, request.run)
    if max_cost_usd is not None and (done is None or done.state != "completed"):
        budget.refuse_unpriced(expanded(spec), max_cost_usd)
        await asyncio.to_thread(budget.raise_to, store, request.run, max_cost_usd)
    async with connected_if_running(Path.cwd()) as found:
        standing = await open_run(found.client, store, request) if found else None
        if standing is not None:
            await standing.handle.signal(RunWorkflow.resume)
            if temporal_configured() or await progress_of(standing.handle) is not None:
                screen.say(f"{request.run} goes on. Follow it with: tandem runs watch {request.run}")
                await _told(found, store, request, screen, json_only=True)
                return 0
    options = RunFlags(spec=None, selection=request.selection, name=request.run, yes=True, wait=wait)
    return await run_spec(spec, Path(request.base), options, screen)


async def cancel_command(wanted: str | None, screen: Screen) -> int:
    """Cancel, and wait until the run has ended: then nothing is committed any more. On the embedded server a run may be
    open that nothing works on; then this command brings what closes it, and nothing that asks a model."""
    store, request = await asyncio.to_thread(find_run, wanted)
    base = Path.cwd()
    if await asyncio.to_thread(load_report, store, request.run) and not _server_is_up(base):
        raise _ended(request)
    async with connected(base) as found:
        standing = await open_run(found.client, store, request)
        if standing is None:
            raise _ended(request)
        await standing.handle.cancel()
        async with _closing(found, request):
            await standing.handle.result()
        await _told(found, store, request, screen)
    return 0


def _server_is_up(base: Path) -> bool:
    return temporal_configured() or EmbeddedServer.running(home_of(base)) is not None


@contextlib.asynccontextmanager
async def _closing(found: Connection, request: RunRequest) -> AsyncIterator[None]:
    if found.embedded is None:
        yield
        return
    from pipeline.worker import working

    async with working(found.client, found.queue(request.pipeline)) as worker:
        worker.drain()  # batches are handed back unasked; partitions are fenced and the run is closed
        yield


async def set_command(wanted: str | None, limits: SetLimits, screen: Screen) -> int:
    """Change a live run. It refuses what cannot be."""
    store, request = await asyncio.to_thread(find_run, wanted)
    async with connected_if_running(Path.cwd()) as found:
        standing = await _live(found, store, request)
        try:
            await standing.handle.execute_update(RunWorkflow.set_limits, limits, rpc_timeout=_ANSWER_WITHIN)
        except WorkflowUpdateFailedError as exc:
            raise UsageError(cause_of(exc.cause or exc)[1]) from None
        except WorkflowUpdateRPCTimeoutOrCancelledError:
            raise ConnectionFailed(
                f"No worker answers for {request.run!r} just now.", hint="Try again when one is at work on it."
            ) from None
    given = {name: value for name, value in _flags(limits).items() if value is not None}
    if screen.json:
        screen.document({"run": request.run, "pipeline": request.pipeline, "set": given})
    else:
        said = ", ".join(f"{name} = {value:,}" for name, value in given.items())
        screen.result(f"{request.run}: {said}, until the run has ended.")
    return 0


def _flags(limits: SetLimits) -> dict[str, Any]:
    return {
        "max_active": limits.partitions,
        "rows_in_flight": limits.rows_in_flight,
        "max_cost": limits.max_cost_usd,
    }


async def retry_command(wanted: str | None, only: Only, screen: Screen) -> int:
    """Run again what of a run failed, was cancelled (or not begun because of that), or was rejected: a run of its own,
    with the spec of that one, worked on and followed here."""
    store, request = await asyncio.to_thread(find_run, wanted)
    async with connected_if_running(Path.cwd()) as found:
        if found is not None and await open_run(found.client, store, request) is not None:
            raise UsageError(
                f"The run {request.run!r} has not ended.", hint=f"Follow it with: tandem runs watch {request.run}"
            )
    keys = await asyncio.to_thread(to_retry, store, request, only)
    if only == "rejects":
        chosen = await asyncio.to_thread(_rejected, store, keys)
        await void_all(store, chosen)
        keys = [rejects.partition for rejects in chosen]
    if not keys:
        screen.say(f"The run {request.run!r} has left nothing to retry with --only {only}.")
        await _told(None, store, request, screen, json_only=True)
        return 0
    screen.say(
        f"Retrying {counted(len(keys), 'partition')} of {request.run}: {', '.join(keys[:5])}" + " …" * (len(keys) > 5)
    )
    again = only == "rejects" or request.selection.reprocess == "all"
    selection = Selection(partitions=tuple(keys), reprocess="all" if again else "stale")
    spec = await asyncio.to_thread(requests.load_spec_of, store, request.spec)
    return await run_spec(spec, Path(request.base), RunFlags(spec=None, selection=selection, yes=True), screen)


def _rejected(store: Store, partitions: list[str]) -> list[Rejects]:
    return to_ask_again(found for key in partitions for found in all_rejects(store, key))


async def _told(
    found: Connection | None, store: Store, request: RunRequest, screen: Screen, *, json_only: bool = False
) -> None:
    """Where the run stands now."""
    if json_only and not screen.json:
        return
    report = await report_of(found, store, request)
    if screen.json:
        screen.document(as_json(report))
    else:
        for text in summary(report):
            screen.result(text)


async def _live(found: Connection | None, store: Store, request: RunRequest) -> OpenRun:
    """Where a run stands that is open. Raises UsageError, ConnectionFailed."""
    if await asyncio.to_thread(load_report, store, request.run) and found is None:
        raise _ended(request)
    if found is None:
        raise ConnectionFailed(
            "No Temporal server runs here, so nothing works on this run.",
            hint=f"Carry it on with: tandem runs resume {request.run}; or end it: tandem runs cancel {request.run}",
        )
    standing = await open_run(found.client, store, request)
    if standing is None:
        raise _ended(request)
    return standing


def _ended(request: RunRequest) -> UsageError:
    return UsageError(f"The run {request.run!r} has ended.", hint=f"See: tandem runs show {request.run}")
