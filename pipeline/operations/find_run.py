"""Find the runs known in a folder, and report their state. Never starts a server or a worker."""

import asyncio
from pathlib import Path

from pipeline.client.connection import Connection
from pipeline.client.follow import progress_of
from pipeline.client.known_pipelines import sinks
from pipeline.client.open_runs import open_run
from pipeline.client.run import Run
from pipeline.client.work_in_progress import work_in_progress
from pipeline.runs import report, requests
from pipeline.runs.report import Report
from pipeline.stores import Store
from schemas import ids
from schemas.errors import UsageError
from schemas.plan import RunRequest

IDLE = "no worker runs it now"


def all_runs() -> list[tuple[Store, RunRequest]]:
    """Return every run of the pipelines known here, newest first."""
    found = []
    for store in sinks(Path.cwd()).values():
        for name in store.folders(ids.RUNS):
            request = requests.load_request(store, name)
            if request is not None:
                found.append((store, request))
    return sorted(found, key=lambda pair: pair[1].created_at, reverse=True)


def find_run(target: str | None) -> tuple[Store, RunRequest]:
    """Return the run of a name or of pipeline/name; the latest for None. Raises UsageError."""
    runs = all_runs()
    if not runs:
        raise UsageError("Nothing has run here yet.", hint="Start with: tandem run")
    if target is None:
        return runs[0]
    pipeline, _, name = target.rpartition("/")
    for store, request in runs:
        if request.run == name and pipeline in ("", request.pipeline):
            return store, request
    raise UsageError(f"There is no run {target!r} here.", hint="See: tandem runs list")


async def report_of(connection: Connection | None, store: Store, request: RunRequest) -> Report:
    """Return the final report, or the report so far. A run without a worker counts as paused."""
    final = await asyncio.to_thread(report.load_report, store, request.run)
    live = await open_run(connection.client, store, request) if connection else None
    if final is not None and live is None:
        return final
    run = Run(request, store, None, "joined")
    from pipeline.runs.progress import live_report  # it reads journals, by Polars, which no other look at runs needs

    so_far = await asyncio.to_thread(live_report, store, request)
    if live is None:
        reason = so_far.stop.message if so_far.stop is not None else IDLE
        return so_far.model_copy(update={"state": "paused", "reason": reason})
    progress = await progress_of(live.handle)
    if progress is not None and connection is not None:
        counts = {"total": progress.totals.total, "unchanged": progress.totals.unchanged}
        work = await work_in_progress(connection.client, run, progress)
        reason = f"waiting: {work.reason}" if work.reason else progress.jobs_text or so_far.reason
        so_far = so_far.model_copy(update={"totals": so_far.totals.model_copy(update=counts), "reason": reason})
    if live.paused and so_far.stop is None:
        return so_far.model_copy(update={"state": "paused", "reason": live.paused})
    return so_far
