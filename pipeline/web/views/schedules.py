"""The schedule of a pipeline, if Temporal can be reached."""

from dataclasses import dataclass
from datetime import datetime

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from temporalio.service import RPCError

from pipeline.client import schedules as client
from pipeline.client.schedules import ExistingSchedule
from pipeline.client.spec_file import read_spec
from pipeline.operations import schedules as operations
from pipeline.web.site import Shown, Site
from pipeline.web.views.common import dataset_of, show, site_of
from schemas import ids
from schemas.errors import ConnectionFailed

_RECENT = 10


@dataclass(frozen=True)
class Firing:
    """A time at which a schedule fired; `run` is None where there was nothing to do."""

    at: datetime
    run: str | None
    note: str


async def schedules(request: Request) -> Response:
    site, dataset = site_of(request), await run_in_threadpool(dataset_of, request)
    found, fired, changed, reached = None, list[Firing](), list[str](), True
    try:
        found = await schedule_of(site, dataset)
    except (ConnectionFailed, RPCError):
        reached = False
    if found is not None:
        fired = await _firings(site, dataset, found)
        changed = await run_in_threadpool(_changes, dataset, found)
    return await run_in_threadpool(
        show, request, "schedules", "schedules", dataset, schedule=found, fired=fired, changed=changed, reached=reached
    )


async def schedule_of(site: Site, dataset: Shown) -> ExistingSchedule | None:
    """Return the schedule of a dataset's pipeline; None without one. Raises ConnectionFailed."""
    connection = await site.connection(dataset.base)
    if connection is None:
        raise ConnectionFailed("Temporal cannot be reached from here.", hint="Start it with: tandem dev")
    return await client.find(connection.client, ids.schedule_id(dataset.pipeline, dataset.store.uri))


async def _firings(site: Site, dataset: Shown, schedule: ExistingSchedule) -> list[Firing]:
    connection = await site.connection(dataset.base)
    found = []
    pairs = list(zip(schedule.recent, schedule.recent_workflows, strict=True))
    for at, workflow in reversed(pairs[-_RECENT:]):
        run = await run_in_threadpool(client.run_of, schedule, at)
        note = await client.note_of(connection.client, workflow) if connection is not None else ""
        found.append(Firing(at, run, note))
    return found


def _changes(dataset: Shown, schedule: ExistingSchedule) -> list[str]:
    if dataset.spec is None:
        return []
    return operations.spec_changes(schedule, read_spec(dataset.spec)[0])
