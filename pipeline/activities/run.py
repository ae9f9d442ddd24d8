"""Activities of a run: its plan, its limits and budget, its hooks, its end."""

import asyncio
import datetime as dt
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from temporalio import activity

from pipeline.activities.boundary import activity_boundary, heartbeating
from pipeline.activities.jobs import Jobs, refuse_other_code
from pipeline.limits import budget, reckoning
from pipeline.limits.live_limits import load_limits, save_limits
from pipeline.limits.run_budget import RunBudgets
from pipeline.planning import builder
from pipeline.planning.job import make_job
from pipeline.progress_note import Note
from pipeline.publishing import cleanup
from pipeline.runs import html_report, plan_pages, requests, statistics
from pipeline.runs import report as reports
from pipeline.runs.notifications import notify
from pipeline.runs.progress import usage_so_far
from pipeline.sinks import catalogue
from pipeline.stores import Store
from schemas import ids
from schemas.errors import TandemError
from schemas.messages.run import (
    BudgetCheck,
    BudgetVerdict,
    FinaliseRequest,
    Notified,
    NotifyRequest,
    Page,
    PageRequest,
    PlanRef,
    PlanRequest,
    RunResult,
    SetLimits,
    SetLimitsRequest,
)
from stages.models.factory import ModelServices

log = logging.getLogger("tandem.activities")
_WAITED_OUT = dt.timedelta(seconds=15)  # a `sink.keep_superseded` that a run sees the end of


@dataclass
class RunActivities:
    """The plan is made and read, limits are set, the budget is looked at, the report is written."""

    jobs: Jobs
    budgets: RunBudgets

    def all(self) -> list[Callable[..., Any]]:
        return [self.plan, self.read_page, self.set_limits, self.reckon, self.notify, self.finalise]

    @activity.defn
    @activity_boundary
    async def plan(self, request: PlanRequest) -> PlanRef:
        """List and split the input, decide for each selected partition, write the plan."""
        async with heartbeating() as beat:
            return await asyncio.to_thread(_plan, self.jobs.store(request.ref), request, self.jobs.services, beat.note)

    @activity.defn
    @activity_boundary
    async def read_page(self, request: PageRequest) -> Page:
        async with heartbeating():
            return await asyncio.to_thread(
                plan_pages.load_page, self.jobs.store(request.ref), request.plan, request.page
            )

    @activity.defn
    @activity_boundary
    async def set_limits(self, request: SetLimitsRequest) -> SetLimits:
        """Write down what was set on a live run, where its workers look."""
        store, max_cost_usd = self.jobs.store(request.ref), request.limits.max_cost_usd
        async with heartbeating():
            if max_cost_usd is not None:
                paid = partial(usage_so_far, store, request.ref.run)
                await asyncio.to_thread(budget.set_to, store, request.ref.run, max_cost_usd, paid)
            return await asyncio.to_thread(save_limits, store, request.ref.run, request.limits)

    @activity.defn
    @activity_boundary
    async def reckon(self, request: BudgetCheck) -> BudgetVerdict:
        """Is there room in a run's budget, now that nothing of it is in flight?"""
        async with heartbeating():
            return await asyncio.to_thread(reckoning.check_budget, self.jobs.store(request.ref), request, self.budgets.folder)

    @activity.defn
    @activity_boundary
    async def notify(self, request: NotifyRequest) -> Notified:
        """Tell a hook of the spec how the run fares."""
        await notify(self.jobs.store(request.ref), request)
        return Notified()

    @activity.defn
    @activity_boundary
    async def finalise(self, request: FinaliseRequest) -> RunResult:
        """Write the run's report."""
        store = self.jobs.store(request.ref)
        async with heartbeating():
            result = await asyncio.to_thread(_finalise, store, request)
            try:
                await asyncio.to_thread(_catch_up, store, request.ref.run)
                await _settled(store, request.ref.run)
                await asyncio.to_thread(catalogue.update, store, dt.datetime.now(dt.UTC))
            except (TandemError, OSError) as exc:
                log.warning("the table, superseded files or the catalogue are not up to date: %s", exc)
        return result


async def _settled(store: Store, run: str) -> None:
    """Sweep at the end of a run, and once more where what has to stay for readers is due soon."""
    for _ in range(2):
        now = dt.datetime.now(dt.UTC)
        due = await asyncio.to_thread(partial(cleanup.sweep, store, now, ended=run))
        if due is None or not now < due <= now + _WAITED_OUT:
            return
        await asyncio.sleep((due - now).total_seconds())


def _plan(store: Store, request: PlanRequest, services: ModelServices, note: Note) -> PlanRef:
    asked = requests.load_request(store, request.ref.run)
    if asked is None:
        raise TandemError(f"the request of run {request.ref.run!r} is gone from {store.uri}")
    cleanup.try_to_sweep(store)
    spec = requests.load_spec_of(store, asked.spec)
    budget.ensure(store, request.ref.run, spec.limits, partial(usage_so_far, store, request.ref.run))
    job = make_job(spec, Path(asked.base), store, services, note=note)
    refuse_other_code(job.spec, request.code)
    decided = builder.decisions(job, store, asked.selection, dt.datetime.now(dt.UTC), note=note)
    written = builder.write_plan(store, request.ref, asked, job, decided, request.course)
    partitions = load_limits(store, request.ref.run).partitions  # of an earlier attempt of the run
    if partitions is None:
        return written
    return written.model_copy(update={"windows": written.windows.model_copy(update={"partitions": partitions})})


def _catch_up(store: Store, run: str) -> None:
    asked = requests.load_request(store, run)
    if asked is not None:
        cleanup.catch_up(store, requests.load_spec_of(store, asked.spec), Path(asked.base))


def _finalise(store: Store, request: FinaliseRequest) -> RunResult:
    result = reports.finalise(store, request)
    asked = requests.load_request(store, request.ref.run)
    hooks = builder.hooks_of(requests.load_spec_of(store, asked.spec)) if asked is not None else ()
    try:
        report = reports.load_report(store, request.ref.run)
        if report is not None:
            said = statistics.collect(store, report)
            statistics.save(store, report.run, said)
            store.put(ids.report_page(report.run), html_report.page(report, said).encode())
    except (TandemError, OSError, ValueError) as exc:  # the report is there; its telling is for people
        log.warning("the story of run %s is not told: %s", request.ref.run, exc)
    return result.model_copy(update={"hooks": hooks})
