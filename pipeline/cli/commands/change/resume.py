"""`tandem runs resume|retry`: work on a run again. Both can cost money."""

import asyncio
from pathlib import Path

from pipeline.cli.commands.change.control import show_status
from pipeline.cli.commands.work.run import RunFlags, run_spec
from pipeline.cli.screen.console import Screen, counted
from pipeline.client.connection import connected_if_running
from pipeline.operations import control
from pipeline.operations.find_run import find_run
from pipeline.operations.retry import retry_selection
from pipeline.operations.set_budget import set_budget
from pipeline.runs import requests
from pipeline.runs.retry_selection import Only


async def resume_command(
    name: str | None, max_cost_usd: float | None, screen: Screen, *, wait: bool, processes: int | None = None
) -> int:
    """Resume a run: signal it if it is paused, work on it here if nothing else does. A higher budget is written
    first."""
    store, request = await asyncio.to_thread(find_run, name)
    if max_cost_usd is not None:
        await set_budget(store, request, max_cost_usd)
    async with connected_if_running(Path.cwd()) as connection:
        if await control.resume(connection, store, request):
            screen.note(f"{request.run} goes on. Follow it with: tandem runs watch {request.run}")
            await show_status(connection, store, request, screen, json_only=True)
            return 0
    spec = await asyncio.to_thread(requests.load_spec_of, store, request.spec)
    options = RunFlags(
        spec=None, selection=request.selection, name=request.run, yes=True, wait=wait, processes=processes
    )
    return await run_spec(spec, Path(request.base), options, screen)


async def retry_command(name: str | None, only: Only, processes: int | None, screen: Screen) -> int:
    """Run the partitions of a run again that failed, were cancelled (or so not begun), or have rejects: as a new run
    with the spec of the first, worked on and followed here."""
    store, request = await asyncio.to_thread(find_run, name)
    async with connected_if_running(Path.cwd()) as connection:
        selection = await retry_selection(connection, store, request, only)
    if selection is None:
        screen.note(f"The run {request.run!r} has nothing to retry with --only {only}.")
        await show_status(None, store, request, screen, json_only=True)
        return 0
    keys = selection.partitions
    screen.note(
        f"Retrying {counted(len(keys), 'partition')} of {request.run}: {', '.join(keys[:5])}" + " …" * (len(keys) > 5)
    )
    spec = await asyncio.to_thread(requests.load_spec_of, store, request.spec)
    flags = RunFlags(spec=None, selection=selection, yes=True, processes=processes)
    return await run_spec(spec, Path(request.base), flags, screen)
