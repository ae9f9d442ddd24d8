"""Activities of a run: its plan, its limits and budget, its hooks, its end."""

import asyncio
import datetime as dt
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from temporalio import activity

from pipeline.activities import lineage
from pipeline.activities.boundary import activity_boundary, heartbeating
from pipeline.activities.jobs import Jobs, refuse_other_code
from pipeline.limits import budget, reckoning
from pipeline.limits.live_limits import load_limits, save_limits
from pipeline.limits.run_budget import RunBudgets
from pipeline.planning import builder, concurrent_keys
from pipeline.planning.known_answers import index_answers
from pipeline.planning.preparation import make_job
from pipeline.progress_note import Note
from pipeline.publishing import cleanup
from pipeline.publishing.retire import Retired, retire_planned
from pipeline.runs import plan_pages, requests
from pipeline.runs.finalise import finalise
from pipeline.runs.html import report as html_report
from pipeline.runs.notifications import notify
from pipeline.runs.progress import usage_so_far
from pipeline.runs.report import Report, load_report
from pipeline.runs.statistics import document, totals
from pipeline.settings import expanded
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
from stages.models.settings.choice import ModelServices

log = logging.getLogger("tandem.activities")
_WAITED_OUT = dt.timedelta(seconds=15)  # the longest `sink.keep_superseded` for whose end a run waits


@dataclass
class RunActivities:
    """The activities of a run: make and read the plan, set limits, check the budget, notify, write the report."""

    jobs: Jobs
    budgets: RunBudgets

    def all(self) -> list[Callable[..., Any]]:
        return [self.plan, self.read_page, self.set_limits, self.reckon, self.notify, self.finalise]

    @activity.defn
    @activity_boundary
    async def plan(self, request: PlanRequest) -> PlanRef:
        """List and split the input, decide for each selected partition, write the plan."""
        async with heartbeating() as progress:
            return await asyncio.to_thread(
                _plan, self.jobs.store(request.ref), request, self.jobs.services, progress.note
            )

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
        """Write the new limits of a live run to the object that its workers poll."""
        store, max_cost_usd = self.jobs.store(request.ref), request.limits.max_cost_usd
        async with heartbeating():
            if max_cost_usd is not None:
                paid = partial(usage_so_far, store, request.ref.run)
                await asyncio.to_thread(budget.set_to, store, request.ref.run, max_cost_usd, paid)
            return await asyncio.to_thread(save_limits, store, request.ref.run, request.limits)

    @activity.defn
    @activity_boundary
    async def reckon(self, request: BudgetCheck) -> BudgetVerdict:
        """Check if a run's budget has room, while nothing of the run is in flight."""
        async with heartbeating():
            return await asyncio.to_thread(
                reckoning.check_budget, self.jobs.store(request.ref), request, self.budgets.folder
            )

    @activity.defn
    @activity_boundary
    async def notify(self, request: NotifyRequest) -> Notified:
        """Call a hook of the spec with the state of the run."""
        await notify(self.jobs.store(request.ref), request)
        return Notified()

    @activity.defn
    @activity_boundary
    async def finalise(self, request: FinaliseRequest) -> RunResult:
        """Write the run's report."""
        store = self.jobs.store(request.ref)
        async with heartbeating():
            retired = await asyncio.to_thread(_retire, store, request)
            result = await asyncio.to_thread(_finalise, store, request, retired)
            try:
                await asyncio.to_thread(_catch_up, store, request.ref.run)
                await _sweep_to_end(store, request.ref.run)
                await asyncio.to_thread(catalogue.update, store, dt.datetime.now(dt.UTC))
            except (TandemError, OSError) as exc:
                log.warning("the table, superseded files or the catalogue are not up to date: %s", exc)
        return result


async def _sweep_to_end(store: Store, run: str) -> None:
    """Sweep at the end of a run, and once more if files kept for readers are due soon."""
    for _ in range(2):
        now = dt.datetime.now(dt.UTC)
        due = await asyncio.to_thread(partial(cleanup.sweep, store, now, ended=run))
        if due is None or not now < due <= now + _WAITED_OUT:
            return
        await asyncio.sleep((due - now).total_seconds())


def _plan(store: Store, request: PlanRequest, services: ModelServices, note: Note) -> PlanRef:
    run_request = requests.load_request(store, request.ref.run)
    if run_request is None:
        raise TandemError(f"the request of run {request.ref.run!r} is gone from {store.uri}")
    lineage.run_began(request.ref, run_request)
    cleanup.try_to_sweep(store)
    spec = requests.load_spec_of(store, run_request.spec)
    budget.ensure(store, request.ref.run, spec.limits, partial(usage_so_far, store, request.ref.run))
    due = run_request.selection.due
    new_files = due is not None and due.open
    job = make_job(spec, Path(run_request.base), store, services, note=note, new_files=new_files)
    refuse_other_code(job.spec, request.code)
    decisions = list(builder.decisions(job, store, run_request.selection, dt.datetime.now(dt.UTC), note=note))
    if not run_request.selection.fresh and any(decision.run for decision in decisions):
        index_answers(job, store, note)
    plan = builder.write_plan(store, request.ref, run_request, job, decisions, request.course)
    lineage.run_planned(store, request.ref, run_request, job)
    partitions = load_limits(store, request.ref.run).partitions  # set in an earlier attempt of the run
    if partitions is None:
        return plan
    return plan.model_copy(update={"windows": plan.windows.model_copy(update={"partitions": partitions})})


def _catch_up(store: Store, run: str) -> None:
    run_request = requests.load_request(store, run)
    if run_request is not None:
        cleanup.catch_up(store, requests.load_spec_of(store, run_request.spec), Path(run_request.base))


def _retire(store: Store, request: FinaliseRequest) -> Retired:
    """Retire what the run's plan retires."""
    run_request = requests.load_request(store, request.ref.run)
    if run_request is None or not request.plan:
        return Retired()
    spec = expanded(requests.load_spec_of(store, run_request.spec))
    return retire_planned(spec, Path(run_request.base), store, request.ref, request.plan, request.state)


def _finalise(store: Store, request: FinaliseRequest, retired: Retired) -> RunResult:
    run_request = requests.load_request(store, request.ref.run)
    spec = requests.load_spec_of(store, run_request.spec) if run_request is not None else None
    if spec is not None:
        try:
            concurrent_keys.note_in_outcomes(store, spec, request.ref.run, request.plan)
        except (TandemError, OSError, ValueError) as exc:  # a run must end all the same
            log.warning("keys that other runs published meanwhile are not compared: %s", exc)
    result = finalise(store, request, retired.count, retired.failures)
    hooks = builder.hooks_of(spec) if spec is not None else ()
    report: Report | None = None
    try:
        report = load_report(store, request.ref.run)
        if report is not None:
            run_statistics = totals.collect(store, report)
            document.save(store, report.run, run_statistics)
            store.put(ids.report_page(report.run), html_report.page(report, run_statistics).encode())
    except (TandemError, OSError, ValueError, pl.exceptions.PolarsError) as exc:
        # The report is written; the page is only for people.
        log.warning("the statistics of run %s are not written: %s", request.ref.run, exc)
    if run_request is not None and spec is not None and report is not None:
        lineage.run_ended(store, request.ref, run_request, spec, report)
    return result.model_copy(update={"hooks": hooks})
