"""`tandem runs pause|resume|cancel|retry|set`: live control. Only `resume` and `retry` can cost money."""

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
from pipeline.runs.retry_selection import Only
from pipeline.stores import Store
from schemas.messages.run import SetLimits
from schemas.plan import RunRequest


async def pause_command(name: str | None, reason: str, screen: Screen) -> int:
    """Pause a run: it starts nothing new, running batches finish. Returns once the run has received it."""
    store, request = await asyncio.to_thread(find_run, name)
    async with connected_if_running(Path.cwd()) as connection:
        received = await control.pause(connection, store, request, reason)
        await _show_status(connection, store, request, screen, json_only=True)
    later = "" if received else " as soon as a worker receives it"
    screen.note(f"{request.run} is paused{later}; running batches finish. Resume it: tandem runs resume {request.run}")
    return 0


async def resume_command(
    name: str | None, max_cost_usd: float | None, screen: Screen, *, wait: bool, processes: int | None = None
) -> int:
    """Resume a run: signal it if it is paused, work on it here if nothing else does. A higher budget is written
    first."""
    store, request = await asyncio.to_thread(find_run, name)
    if max_cost_usd is not None:
        await control.set_budget(store, request, max_cost_usd)
    async with connected_if_running(Path.cwd()) as connection:
        if await control.resume(connection, store, request):
            screen.note(f"{request.run} goes on. Follow it with: tandem runs watch {request.run}")
            await _show_status(connection, store, request, screen, json_only=True)
            return 0
    spec = await asyncio.to_thread(requests.load_spec_of, store, request.spec)
    options = RunFlags(
        spec=None, selection=request.selection, name=request.run, yes=True, wait=wait, processes=processes
    )
    return await run_spec(spec, Path(request.base), options, screen)


async def cancel_command(name: str | None, screen: Screen) -> int:
    """Cancel a run and wait until it has ended."""
    store, request = await asyncio.to_thread(find_run, name)
    async with control.cancelled(Path.cwd(), store, request) as connection:
        await _show_status(connection, store, request, screen)
    return 0


async def set_command(name: str | None, limits: SetLimits, screen: Screen) -> int:
    """Change the limits of a live run. Raises UsageError for limits out of range."""
    store, request = await asyncio.to_thread(find_run, name)
    async with connected_if_running(Path.cwd()) as connection:
        await control.set_limits(connection, store, request, limits)
    changes = {flag: value for flag, value in _flags(limits).items() if value is not None}
    if screen.json:
        screen.document({"run": request.run, "pipeline": request.pipeline, "set": changes})
    else:
        values = ", ".join(f"{flag} = {value:,}" for flag, value in changes.items())
        screen.result(f"{request.run}: {values}, until the run has ended.")
    return 0


def _flags(limits: SetLimits) -> dict[str, Any]:
    return {
        "max_active": limits.partitions,
        "rows_in_flight": limits.rows_in_flight,
        "max_cost": limits.max_cost_usd,
    }


async def retry_command(name: str | None, only: Only, processes: int | None, screen: Screen) -> int:
    """Run the partitions of a run again that failed, were cancelled (or so not begun), or have rejects: as a new run
    with the spec of the first, worked on and followed here."""
    store, request = await asyncio.to_thread(find_run, name)
    async with connected_if_running(Path.cwd()) as connection:
        selection = await retry_selection(connection, store, request, only)
    if selection is None:
        screen.note(f"The run {request.run!r} has nothing to retry with --only {only}.")
        await _show_status(None, store, request, screen, json_only=True)
        return 0
    keys = selection.partitions
    screen.note(
        f"Retrying {counted(len(keys), 'partition')} of {request.run}: {', '.join(keys[:5])}" + " …" * (len(keys) > 5)
    )
    spec = await asyncio.to_thread(requests.load_spec_of, store, request.spec)
    flags = RunFlags(spec=None, selection=selection, yes=True, processes=processes)
    return await run_spec(spec, Path(request.base), flags, screen)


async def _show_status(
    connection: Connection | None, store: Store, request: RunRequest, screen: Screen, *, json_only: bool = False
) -> None:
    if json_only and not screen.json:
        return
    report = await report_of(connection, store, request)
    if screen.json:
        screen.document(as_json(report))
    else:
        for text in summary(report):
            screen.result(text)
