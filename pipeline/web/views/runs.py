"""The list of runs, one run with its story, and what of it is live."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from pipeline.client.connection import Connection
from pipeline.operations.find_run import report_of
from pipeline.runs.html.report import figures, sections
from pipeline.runs.html.templates import Name
from pipeline.runs.plan_pages import latest_plan
from pipeline.runs.report import Report, moved_models
from pipeline.runs.requests import load_request
from pipeline.runs.statistics.known import statistics_of
from pipeline.stores import Store
from pipeline.web.facts.live import live
from pipeline.web.facts.runs import RunLine
from pipeline.web.rendering import fragment, link
from pipeline.web.site import Shown
from pipeline.web.views.common import PAGE, dataset_of, number_of, runs, show, site_of
from schemas.errors import UsageError
from schemas.plan import RunRequest

_ENDED = ("completed", "failed", "cancelled")


async def run_list(request: Request) -> Response:
    site, dataset = site_of(request), await run_in_threadpool(dataset_of, request)
    lines = await run_in_threadpool(runs, site, dataset)
    page = number_of(request.query_params, "page", 1)
    connection = await site.connection(dataset.base)
    shown = [await _now(connection, dataset, line) for line in lines[(page - 1) * PAGE : page * PAGE]]
    return await run_in_threadpool(
        show, request, "runs", "runs", dataset, lines=shown, page=page, page_size=PAGE, more=len(lines) > page * PAGE,
        total=len(lines),
    )  # fmt: skip


async def _now(connection: Connection | None, dataset: Shown, line: RunLine) -> RunLine:
    """Return a run with what is known of it now: one that is not completed may be at work, or at work again."""
    if line.report is not None and (line.report.state == "completed" or connection is None):
        return line
    return replace(line, report=await report_of(connection, dataset.store, line.request))


def request_of(dataset: Shown, run: str) -> RunRequest:
    """Return the request of a run. Raises UsageError."""
    found = load_request(dataset.store, run)
    if found is None:
        raise UsageError(f"There is no run {run!r} here.", hint="See the list of runs.")
    return found


async def run(request: Request) -> Response:
    site, dataset = site_of(request), await run_in_threadpool(dataset_of, request)
    found = await run_in_threadpool(request_of, dataset, request.path_params["run"])
    connection = await site.connection(dataset.base)
    report = await report_of(connection, dataset.store, found)
    statistics = await run_in_threadpool(statistics_of, dataset.store, report)
    waiting = await run_in_threadpool(_left_to_later, dataset.store, found.run)
    ended = report.finished_at is not None and report.state in _ENDED
    return await run_in_threadpool(
        show, request, "run", "runs", dataset, run=found, report=report, figures=figures(report),
        sections=sections(report, statistics), address=_address(dataset, found.run), whole=statistics.whole,
        ended=ended,
        failures=report.failures, moved=list(moved_models(report.answered_by)), waiting=waiting,
        temporal=_temporal(connection), can_retry=_retries(report),
    )  # fmt: skip


def _left_to_later(store: Store, run: str) -> str:
    plan = latest_plan(store, run)
    return plan.waiting if plan is not None else ""


def _temporal(connection: Connection | None) -> str:
    if connection is None:
        return "Temporal cannot be reached from here: what is shown is from the sink, and the run cannot be changed."
    return ""


def _address(dataset: Shown, run: str) -> Callable[[Name], str]:
    """Return where the name of a partition or row leads: a row, to what this run has made of it."""

    def address(name: Name) -> str:
        if name.of_row:
            return link("d", dataset.slug, "row", partition=name.of_partition, row=name.of_row, run=run)
        return link("d", dataset.slug, "partition", key=name.of_partition)

    return address


def _retries(report: Report) -> list[tuple[str, str]]:
    """Return what of an ended run can be tried again, with the label of its button."""
    totals = report.totals
    found = [("failed", f"Retry {totals.failed:,} failed", totals.failed)]
    found.append(("cancelled", "Retry what was cancelled", totals.cancelled + totals.not_run))
    found.append(("rejects", f"Retry {totals.counts.rejected:,} rejected", totals.counts.rejected))
    return [(only, label) for only, label, number in found if number]


async def run_live(request: Request) -> Response:
    """Send the state of a run as it goes on, as parts of the page."""
    site, dataset = site_of(request), await run_in_threadpool(dataset_of, request)
    found = await run_in_threadpool(request_of, dataset, request.path_params["run"])
    connection = await site.connection(dataset.base)

    async def events() -> AsyncIterator[str]:
        async for state in live(connection, dataset.store, found):
            yield _event("part", fragment("page/progress.html", live=state, dataset=dataset))
        site.recently.forget()
        yield _event("end", "the run has ended")

    return StreamingResponse(events(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def _event(name: str, data: str) -> str:
    lines = "".join(f"data: {line}\n" for line in data.splitlines())
    return f"event: {name}\n{lines}\n"
