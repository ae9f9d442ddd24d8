"""`tandem runs pause|resume|cancel|retry|set`: live control. Of these only `resume` and `retry` go on spending."""

import asyncio
from pathlib import Path
from typing import Any

from pipeline.cli.commands.work.run import RunFlags, run_spec
from pipeline.cli.screen.console import Screen, counted
from pipeline.cli.screen.results import summary
from pipeline.client.connection import Connection, connected_if_running
from pipeline.operations import control
from pipeline.operations.find_run import find_run, report_of
from pipeline.operations.retry import retry_selection
from pipeline.runs import requests
from pipeline.runs.report import as_json
from pipeline.runs.retry import Only
from pipeline.stores import Store
from schemas.messages.run import SetLimits
from schemas.plan import RunRequest


async def pause_command(name: str | None, reason: str, screen: Screen) -> int:
    """Nothing new is begun, batches at work finish; returns once the run has taken it."""
    store, request = await asyncio.to_thread(find_run, name)
    async with connected_if_running(Path.cwd()) as found:
        taken = await control.pause(found, store, request, reason)
        await _show_status(found, store, request, screen, json_only=True)
    later = "" if taken else " as soon as a worker hears of it"
    screen.say(f"{request.run} is paused{later}; batches at work finish. Go on: tandem runs resume {request.run}")
    return 0


async def resume_command(
    name: str | None, max_cost_usd: float | None, screen: Screen, *, wait: bool, processes: int | None = None
) -> int:
    """Let a run go on: one that was paused, by telling it; one that nothing works on, by working on it here. A higher
    budget is written down first."""
    store, request = await asyncio.to_thread(find_run, name)
    if max_cost_usd is not None:
        await control.set_budget(store, request, max_cost_usd)
    async with connected_if_running(Path.cwd()) as found:
        if await control.resume(found, store, request):
            screen.say(f"{request.run} goes on. Follow it with: tandem runs watch {request.run}")
            await _show_status(found, store, request, screen, json_only=True)
            return 0
    spec = await asyncio.to_thread(requests.load_spec_of, store, request.spec)
    options = RunFlags(
        spec=None, selection=request.selection, name=request.run, yes=True, wait=wait, processes=processes
    )
    return await run_spec(spec, Path(request.base), options, screen)


async def cancel_command(name: str | None, screen: Screen) -> int:
    """Cancel, and wait until the run has ended."""
    store, request = await asyncio.to_thread(find_run, name)
    async with control.cancelled(Path.cwd(), store, request) as found:
        await _show_status(found, store, request, screen)
    return 0


async def set_command(name: str | None, limits: SetLimits, screen: Screen) -> int:
    """Change a live run. It refuses what cannot be."""
    store, request = await asyncio.to_thread(find_run, name)
    async with connected_if_running(Path.cwd()) as found:
        await control.set_limits(found, store, request, limits)
    given = {flag: value for flag, value in _flags(limits).items() if value is not None}
    if screen.json:
        screen.document({"run": request.run, "pipeline": request.pipeline, "set": given})
    else:
        values = ", ".join(f"{flag} = {value:,}" for flag, value in given.items())
        screen.result(f"{request.run}: {values}, until the run has ended.")
    return 0


def _flags(limits: SetLimits) -> dict[str, Any]:
    return {
        "max_active": limits.partitions,
        "rows_in_flight": limits.rows_in_flight,
        "max_cost": limits.max_cost_usd,
    }


async def retry_command(name: str | None, only: Only, processes: int | None, screen: Screen) -> int:
    """Run again what of a run failed, was cancelled (or not begun because of that), or was rejected: a run of its own,
    with the spec of that one, worked on and followed here."""
    store, request = await asyncio.to_thread(find_run, name)
    async with connected_if_running(Path.cwd()) as found:
        selection = await retry_selection(found, store, request, only)
    if selection is None:
        screen.say(f"The run {request.run!r} has left nothing to retry with --only {only}.")
        await _show_status(None, store, request, screen, json_only=True)
        return 0
    keys = selection.partitions
    screen.say(
        f"Retrying {counted(len(keys), 'partition')} of {request.run}: {', '.join(keys[:5])}" + " …" * (len(keys) > 5)
    )
    spec = await asyncio.to_thread(requests.load_spec_of, store, request.spec)
    flags = RunFlags(spec=None, selection=selection, yes=True, processes=processes)
    return await run_spec(spec, Path(request.base), flags, screen)


async def _show_status(
    found: Connection | None, store: Store, request: RunRequest, screen: Screen, *, json_only: bool = False
) -> None:
    if json_only and not screen.json:
        return
    report = await report_of(found, store, request)
    if screen.json:
        screen.document(as_json(report))
    else:
        for text in summary(report):
            screen.result(text)
