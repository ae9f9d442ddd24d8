"""`tandem runs show|watch`: show a run. Never starts a server or a worker, so that looking costs nothing."""

import asyncio
from pathlib import Path

from pipeline.cli.screen.console import InterruptedByUser, Screen
from pipeline.cli.screen.live import PausedByBudget, WatchTimeout, watch
from pipeline.cli.screen.run_report import show_statistics
from pipeline.cli.screen.summary import summary
from pipeline.client.connection import connected_if_running
from pipeline.client.open_runs import open_run
from pipeline.client.run import Run
from pipeline.operations.find_run import IDLE, find_run, report_of
from pipeline.runs.plan_pages import latest_plan
from pipeline.runs.report import Report, as_json, exit_code
from pipeline.runs.statistics.known import statistics_of


async def show_command(name: str | None, screen: Screen) -> int:
    """Show a run's report and statistics."""
    store, request = await asyncio.to_thread(find_run, name)
    async with connected_if_running(Path.cwd()) as connection:
        report = await report_of(connection, store, request)
    if screen.json:
        screen.document(as_json(report))
    else:
        for text in summary(report):
            screen.result(text)
        statistics = await asyncio.to_thread(statistics_of, store, report)
        await asyncio.to_thread(show_statistics, store, report, statistics, screen)
        plan = await asyncio.to_thread(latest_plan, store, report.run)
        if plan is not None and plan.waiting:
            screen.result(f"Left to a later run: {plan.waiting}.")
        _show_idle(report, screen)
    return 0


def _show_idle(report: Report, screen: Screen) -> None:
    if report.state == "running" and report.reason:
        screen.note(f"{report.reason[0].upper()}{report.reason[1:]}")
    if report.state != "paused" or report.stop is not None:  # `stop` then names the next step
        return
    if report.reason == IDLE:
        screen.note(f"No worker runs it now; resume it with: tandem runs resume {report.run}")
    else:
        screen.note(f"Paused: {report.reason}. Resume it with: tandem runs resume {report.run}")


async def watch_command(name: str | None, timeout_s: float | None, screen: Screen) -> int:
    """Follow a run that has a worker. Return the run's exit code."""
    store, request = await asyncio.to_thread(find_run, name)
    async with connected_if_running(Path.cwd()) as connection:
        live = await open_run(connection.client, store, request) if connection else None
        if connection is not None and live is not None:
            try:
                await watch(Run(request, store, live.handle, "joined"), connection.client, screen, timeout_s=timeout_s)
            except PausedByBudget:
                pass  # its report says so
            except WatchTimeout:
                screen.note(f"Still running after {timeout_s:g} s: tandem runs watch {request.run}")
                if screen.json:
                    screen.document(as_json(await report_of(connection, store, request)))
                return 5
            except asyncio.CancelledError:
                raise InterruptedByUser(f"Interrupted; the run {request.run} goes on.") from None
        report = await report_of(connection, store, request)
    if screen.json:
        screen.document(as_json(report))
    else:
        for text in summary(report):
            screen.result(text)
        _show_idle(report, screen)
    return exit_code(report)
