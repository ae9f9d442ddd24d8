"""The runs that are known from a folder, and where they stand. Never starts a server or a worker."""

import asyncio
from pathlib import Path

from pipeline.client.connection import Connection
from pipeline.client.follow import progress_of, running_report
from pipeline.client.known_pipelines import sinks
from pipeline.client.open_runs import open_run
from pipeline.client.start import Run
from pipeline.client.work_in_progress import work_in_progress
from pipeline.runs import report, requests
from pipeline.runs.report import Report
from pipeline.stores import Store
from schemas import ids
from schemas.errors import UsageError
from schemas.plan import RunRequest

IDLE = "nothing works on it just now"


def all_runs() -> list[tuple[Store, RunRequest]]:
    """Every run of the pipelines known here, newest first."""
    found = []
    for store in sinks(Path.cwd()).values():
        for name in store.folders(ids.RUNS):
            request = requests.load_request(store, name)
            if request is not None:
                found.append((store, request))
    return sorted(found, key=lambda pair: pair[1].created_at, reverse=True)


def find_run(wanted: str | None) -> tuple[Store, RunRequest]:
    """The run of a name, or of pipeline/name; the latest when none is given. Raises UsageError."""
    runs = all_runs()
    if not runs:
        raise UsageError("Nothing has run here yet.", hint="Start with: tandem run")
    if wanted is None:
        return runs[0]
    pipeline, _, name = wanted.rpartition("/")
    for store, request in runs:
        if request.run == name and pipeline in ("", request.pipeline):
            return store, request
    raise UsageError(f"There is no run {wanted!r} here.", hint="See: tandem runs list")


async def report_of(engine: Connection | None, store: Store, request: RunRequest) -> Report:
    """The final report, or what is known so far. A run that nothing works on counts as paused."""
    done = await asyncio.to_thread(report.load_report, store, request.run)
    standing = await open_run(engine.client, store, request) if engine else None
    if done is not None and standing is None:
        return done
    run = Run(request, store, None, "joined")
    so_far = await asyncio.to_thread(running_report, run)
    if standing is None:
        why = so_far.stop.message if so_far.stop is not None else IDLE
        return so_far.model_copy(update={"state": "paused", "reason": why})
    progress = await progress_of(standing.handle)
    if progress is not None and engine is not None:
        counted = {"total": progress.totals.total, "unchanged": progress.totals.unchanged}
        work = await work_in_progress(engine.client, run, progress)
        reason = f"waiting: {work.reason}" if work.reason else so_far.reason
        so_far = so_far.model_copy(update={"totals": so_far.totals.model_copy(update=counted), "reason": reason})
    if standing.paused and so_far.stop is None:
        return so_far.model_copy(update={"state": "paused", "reason": standing.paused})
    return so_far
