"""`tandem runs …`: what has run, and live control. Never starts a server or a worker: looking must not spend."""

import asyncio
from pathlib import Path
from typing import Any

from pipeline import plans, reports
from pipeline.cli.console import Interrupted, Screen, money
from pipeline.cli.results import summary
from pipeline.cli.run import running_report
from pipeline.cli.watch import WatchTimeout, watch
from pipeline.engine import Engine, engine_if_running
from pipeline.launch import Run, status_of
from pipeline.plans import Request
from pipeline.registry import sinks
from pipeline.reports import Report
from pipeline.stores import Store
from pipeline.workflows.run import RunWorkflow
from schemas import ids
from schemas.errors import ConnectionFailed, UsageError


def _all() -> list[tuple[Store, Request]]:
    """Every run of the pipelines known here, newest first."""
    found = []
    for store in sinks(Path.cwd()).values():
        for name in store.folders(ids.RUNS):
            request = plans.load_request(store, name)
            if request is not None:
                found.append((store, request))
    return sorted(found, key=lambda pair: pair[1].created_at, reverse=True)


def _find(wanted: str | None) -> tuple[Store, Request]:
    runs = _all()
    if not runs:
        raise UsageError("Nothing has run here yet.", hint="Start with: tandem run")
    if wanted is None:
        return runs[0]
    pipeline, _, name = wanted.rpartition("/")
    for store, request in runs:
        if request.run == name and pipeline in ("", request.pipeline):
            return store, request
    raise UsageError(f"There is no run {wanted!r} here.", hint="See: tandem runs list")


async def _report(engine: Engine | None, store: Store, request: Request) -> Report:
    """The final report, or what is known so far. A run that nothing works on counts as paused."""
    done = await asyncio.to_thread(reports.load_report, store, request.run)
    status = await status_of(engine.client, request.pipeline, store.uri, request.run) if engine else None
    alive = status is not None and status.name == "RUNNING"
    if done is not None and not alive:
        return done
    so_far = await asyncio.to_thread(running_report, Run(request, store, None, "joined"))
    return so_far if alive else so_far.model_copy(update={"state": "paused"})


async def list_command(screen: Screen) -> int:
    """A line a run."""
    found = await asyncio.to_thread(_all)
    listed: list[dict[str, Any]] = []
    async with engine_if_running(Path.cwd()) as engine:
        for store, request in found:
            listed.append(reports.as_json(await _report(engine, store, request)))
    if screen.json:
        screen.document(listed)
        return 0
    screen.table(
        ("run", "state", "started (UTC)", "published", "unchanged", "failed", "rows", "cost"),
        [
            (
                f"{item['pipeline']}/{item['run']}",
                item["state"],
                item["started_at"].replace("T", " ").removesuffix("Z"),
                *(item["partitions"][name] for name in ("published", "unchanged", "failed")),
                item["rows"]["out"],
                money(item["usage"]["cost_usd"]),
            )
            for item in listed
        ],
    )
    if not listed:
        screen.say("Nothing has run here yet. Start with: tandem run")
    return 0


async def show_command(wanted: str | None, screen: Screen) -> int:
    """A run's report."""
    store, request = await asyncio.to_thread(_find, wanted)
    async with engine_if_running(Path.cwd()) as engine:
        report = await _report(engine, store, request)
    if screen.json:
        screen.document(reports.as_json(report))
    else:
        for text in summary(report):
            screen.result(text)
        _say_idle(report, screen)
    return 0


def _say_idle(report: Report, screen: Screen) -> None:
    if report.state == "paused":
        screen.say("Nothing works on it just now; the command that started it carries it on.")


async def watch_command(wanted: str | None, timeout_s: float | None, screen: Screen) -> int:
    """Follow a run that something works on; the exit code is the run's."""
    store, request = await asyncio.to_thread(_find, wanted)
    async with engine_if_running(Path.cwd()) as engine:
        report = await _report(engine, store, request)
        if engine is not None and report.state == "running":
            handle = engine.client.get_workflow_handle_for(
                RunWorkflow.run, ids.run_workflow_id(request.pipeline, store.uri, request.run)
            )
            try:
                await watch(Run(request, store, handle, "joined"), engine.client, screen, timeout_s=timeout_s)
            except WatchTimeout:
                screen.say(f"Still at work after {timeout_s:g} s: tandem runs watch {request.run}")
                if screen.json:
                    screen.document(reports.as_json(await _report(engine, store, request)))
                return 5
            except asyncio.CancelledError:
                raise Interrupted(f"Interrupted; the run {request.run} goes on.") from None
            report = await _report(engine, store, request)
    if screen.json:
        screen.document(reports.as_json(report))
    else:
        for text in summary(report):
            screen.result(text)
        _say_idle(report, screen)
    return reports.exit_code(report)


async def signal_command(wanted: str | None, signal: str, argument: str | None, screen: Screen) -> int:
    """Pause or resume."""
    store, request = await asyncio.to_thread(_find, wanted)
    async with engine_if_running(Path.cwd()) as engine:
        handle = (await _live(engine, store, request)).get_workflow_handle(
            ids.run_workflow_id(request.pipeline, store.uri, request.run)
        )
        if argument is None:
            await handle.signal(signal)
        else:
            await handle.signal(signal, argument)
    screen.say(f"{request.run}: {signal} sent.")
    return 0


async def cancel_command(wanted: str | None, screen: Screen) -> int:
    """Cancel, and wait until the run has ended: then nothing is committed any more."""
    store, request = await asyncio.to_thread(_find, wanted)
    async with engine_if_running(Path.cwd()) as engine:
        client = await _live(engine, store, request)
        handle = client.get_workflow_handle_for(
            RunWorkflow.run, ids.run_workflow_id(request.pipeline, store.uri, request.run)
        )
        await handle.cancel()
        await handle.result()
    report = await asyncio.to_thread(reports.load_report, store, request.run)
    for text in summary(report) if report else [f"{request.run} was cancelled."]:
        screen.result(text)
    return 0


async def _live(engine: Engine | None, store: Store, request: Request) -> Any:
    """The client of a run that is open. Raises UsageError, ConnectionFailed."""
    if engine is None:
        raise ConnectionFailed(
            "No Temporal server runs here, so nothing works on this run.",
            hint="The command that started it carries it on; or start: tandem dev",
        )
    status = await status_of(engine.client, request.pipeline, store.uri, request.run)
    if status is None or status.name != "RUNNING":
        raise UsageError(f"The run {request.run!r} has ended.", hint="See: tandem runs show " + request.run)
    return engine.client
