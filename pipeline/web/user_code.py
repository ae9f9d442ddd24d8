"""What the page does with a user's code: each function is called apart (`pipeline.web.apart`)."""

import asyncio
import datetime as dt
from pathlib import Path

from pipeline.client.spec_file import read_spec
from pipeline.operations import detached
from pipeline.planning.partition_status import PartitionStatus, partition_statuses
from pipeline.planning.preparation import make_job
from pipeline.runs.requests import load_request
from pipeline.runs.retry_selection import Only
from pipeline.stores import Store, open_store
from schemas.errors import UsageError
from schemas.plan import RunRequest
from stages.models.settings.choice import ModelServices


def retry_rejects(spec: Path, sink: str, partition: str | None, error: str | None) -> str:
    """Start a run that asks again for rejected rows. Returns its name. Raises what `detached.retry_rejects` does."""
    run = asyncio.run(detached.retry_rejects(spec, open_store(sink), partition, error))
    return run.request.run


def retry_run(sink: str, run: str, only: Only) -> str:
    """Start a run over what an ended one left undone. Returns its name. Raises what `detached.retry_run` does."""
    store, request = _request(sink, run)
    return asyncio.run(detached.retry_run(store, request, only)).request.run


def resume(sink: str, run: str) -> None:
    """Resume a run. Raises what `detached.resume` does."""
    asyncio.run(detached.resume(*_request(sink, run)))


def compare(spec: Path, sink: str) -> list[PartitionStatus]:
    """Return the partitions with what a run of the spec would do. Raises SpecError, SourceError, StoreError."""
    found, base = read_spec(spec)
    store = open_store(sink)
    job = make_job(found, base, store, ModelServices())
    return list(partition_statuses(store, job, dt.datetime.now(dt.UTC)))


def _request(sink: str, run: str) -> tuple[Store, RunRequest]:
    store = open_store(sink)
    request = load_request(store, run)
    if request is None:
        raise UsageError(f"There is no run {run!r} here.", hint="See the list of runs.")
    return store, request
