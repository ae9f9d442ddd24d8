"""`tandem runs pause|cancel|set`: control of a live run, at no cost."""

import asyncio
from pathlib import Path

from pipeline.cli.screen.console import Screen
from pipeline.cli.screen.summary import summary
from pipeline.client.connection import Connection, connected_if_running
from pipeline.operations import control
from pipeline.operations.find_run import find_run, report_of
from pipeline.runs.report import as_json
from pipeline.stores import Store
from schemas.messages.run import SetLimits
from schemas.plan import RunRequest


async def pause_command(name: str | None, reason: str, screen: Screen) -> int:
    """Pause a run: it starts nothing new, running batches finish. Returns once the run has received it."""
    store, request = await asyncio.to_thread(find_run, name)
    async with connected_if_running(Path.cwd()) as connection:
        received = await control.pause(connection, store, request, reason)
        await show_status(connection, store, request, screen, json_only=True)
    screen.note(control.paused_text(request, received=received))
    return 0


async def cancel_command(name: str | None, screen: Screen) -> int:
    """Cancel a run and wait until it has ended."""
    store, request = await asyncio.to_thread(find_run, name)
    async with control.cancelled(Path.cwd(), store, request) as connection:
        await show_status(connection, store, request, screen)
    return 0


async def set_command(name: str | None, limits: SetLimits, screen: Screen) -> int:
    """Change the limits of a live run. Raises UsageError for limits out of range."""
    store, request = await asyncio.to_thread(find_run, name)
    async with connected_if_running(Path.cwd()) as connection:
        await control.set_limits(connection, store, request, limits)
    if screen.json:
        screen.document({"run": request.run, "pipeline": request.pipeline, "set": control.changes_of(limits)})
    else:
        screen.result(control.changes_text(request, limits))
    return 0


async def show_status(
    connection: Connection | None, store: Store, request: RunRequest, screen: Screen, *, json_only: bool = False
) -> None:
    """Show a run's report; if `json_only`, only as a document."""
    if json_only and not screen.json:
        return
    report = await report_of(connection, store, request)
    if screen.json:
        screen.document(as_json(report))
    else:
        for text in summary(report):
            screen.result(text)
