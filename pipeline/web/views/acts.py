"""What a person may change from the page, by the operations of the command line and with its sentences."""

import asyncio
import contextlib
from typing import get_args

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from pipeline.client.spec_file import read_spec
from pipeline.operations import control
from pipeline.operations import schedules as scheduling
from pipeline.operations.set_budget import set_budget
from pipeline.runs.retry_selection import Only
from pipeline.web.access import form_of
from pipeline.web.apart import apart
from pipeline.web.site import Shown
from pipeline.web.views.common import back_to, dataset_of, site_of
from pipeline.web.views.runs import request_of
from pipeline.web.views.schedules import schedule_of
from schemas.errors import UsageError
from schemas.messages.run import SetLimits

_PATIENCE_S = 20.0
_background: set[asyncio.Task[None]] = set()  # cancels that take longer than a browser waits


async def run_act(request: Request) -> Response:
    """Pause, resume, cancel or retry a run, or set its limits."""
    site, dataset = site_of(request), await run_in_threadpool(dataset_of, request)
    fields = await form_of(request, site.access)
    found = await run_in_threadpool(request_of, dataset, request.path_params["run"])
    connection, store, shown = await site.connection(dataset.base), dataset.store, found.run
    match request.path_params["act"]:
        case "pause":
            received = await control.pause(connection, store, found, fields.get("reason") or "from the page")
            text = control.paused_text(found, received=received)
        case "resume":
            if (budget := _amount(fields, "max_cost")) is not None:
                await set_budget(store, found, budget)
            await apart("resume", store.uri, found.run)
            text = f"{found.run} goes on."
        case "cancel":
            text = await _cancelled(dataset, found.run)
        case "set":
            limits = _limits(fields)
            await control.set_limits(connection, store, found, limits)
            text = control.changes_text(found, limits)
        case "retry":
            only = fields.get("only", "")
            if only not in get_args(Only):
                raise UsageError(f"--only {only}: not one of {', '.join(get_args(Only))}.")
            shown = await apart("retry_run", store.uri, found.run, only)
            text = f"Retrying {only} of {found.run}, as the run {shown}."
        case act:
            raise UsageError(f"{act!r} is nothing that can be done to a run.")
    return back_to(site, text, "d", dataset.slug, "runs", shown)


async def _cancelled(dataset: Shown, run: str) -> str:
    """Cancel a run and wait a while for its end. Raises UsageError for one that has ended."""
    found = request_of(dataset, run)

    async def cancel() -> None:
        async with control.cancelled(dataset.base, dataset.store, found):
            pass

    task = asyncio.create_task(cancel())
    _background.add(task)
    task.add_done_callback(_background.discard)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE_S):
            await asyncio.shield(task)
        return f"{run} is cancelled."
    return f"{run} is being cancelled: rows in flight finish first."


def _limits(fields: dict[str, str]) -> SetLimits:
    """Return the limits of a form. Raises UsageError for one that is no number, or without any."""
    limits = SetLimits(
        partitions=_whole(fields, "max_active"),
        rows_in_flight=_whole(fields, "rows_in_flight"),
        max_cost_usd=_amount(fields, "max_cost"),
    )
    if not control.changes_of(limits):
        raise UsageError("No limit was given.", hint="Fill in one of them.")
    return limits


def _whole(fields: dict[str, str], name: str) -> int | None:
    text = fields.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 1_000_000):
        raise UsageError(f"{name} {text}: not a whole number above zero.")
    return int(text)


def _amount(fields: dict[str, str], name: str) -> float | None:
    text = fields.get(name, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UsageError(f"--max-cost {text}: not an amount above zero.", hint="Write USD, for example 5")
    return value


async def retry_rejects(request: Request) -> Response:
    """Ask again for rejected rows, of a class and partition or all."""
    site, dataset = site_of(request), await run_in_threadpool(dataset_of, request)
    fields = await form_of(request, site.access)
    partition, error = fields.get("partition", ""), fields.get("error", "")
    if dataset.spec is None:
        raise UsageError(
            "The spec of this dataset is not known here, so its rows cannot be asked again from here.",
            hint="Run it in the folder of the spec: tandem rejects retry",
        )
    run = await apart("retry_rejects", dataset.spec, dataset.store.uri, partition or None, error or None)
    return back_to(site, f"Retrying, as the run {run}.", "d", dataset.slug, "runs", run)


async def schedule_act(request: Request) -> Response:
    """Fire, pause or unpause the schedule."""
    site, dataset = site_of(request), await run_in_threadpool(dataset_of, request)
    fields = await form_of(request, site.access)
    schedule = await schedule_of(site, dataset)
    connection = await site.connection(dataset.base)
    if schedule is None or connection is None:
        raise UsageError(
            f"There is no schedule of {dataset.pipeline!r} here.",
            hint="See: tandem schedule list; tandem schedule apply SPEC",
        )
    match request.path_params["act"]:
        case "trigger":
            spec = (await run_in_threadpool(read_spec, dataset.spec))[0] if dataset.spec is not None else None
            text = await scheduling.trigger(connection, schedule, spec, str(dataset.spec or dataset.pipeline))
        case "pause":
            text = await scheduling.pause(connection, schedule, fields.get("reason") or "from the page")
        case "unpause":
            text = await scheduling.unpause(connection, schedule)
        case act:
            raise UsageError(f"{act!r} is nothing that can be done to a schedule.")
    return back_to(site, text, "d", dataset.slug, "schedules")
