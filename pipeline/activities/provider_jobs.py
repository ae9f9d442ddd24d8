"""Activities of provider batch jobs: form, submit, look, collect, cancel. All of them may be repeated."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from temporalio import activity

from pipeline.activities.boundary import activity_boundary, heartbeating
from pipeline.activities.jobs import Jobs
from pipeline.limits import job_budget
from pipeline.limits.live_limits import load_limits
from pipeline.provider_jobs.base import JobClient
from pipeline.provider_jobs.clients import client_for
from pipeline.provider_jobs.collection import collect
from pipeline.provider_jobs.forming import form_jobs
from pipeline.provider_jobs.polling import cancel, poll
from pipeline.provider_jobs.requests import Pool
from pipeline.provider_jobs.splitting import first_most, split
from pipeline.provider_jobs.submission import Patience, submit
from pipeline.settings import Settings, current
from pipeline.stores import Store
from schemas.errors import FatalModelError
from schemas.jobs import JobEnd, JobState
from schemas.messages.base import RunRef
from schemas.messages.jobs import CancelJobs, CancelledJobs, FormedJobs, FormRequest, JobProgress, JobRequest
from stages.limits.budget import Amount
from stages.models.backend import Backend
from stages.models.factory import model_of_pool
from stages.models.wires.transport import ProviderChatModel

_GROWTH = 1.5  # of the time between two looks at a job
_LONGEST = 20  # times the first


@dataclass(frozen=True)
class _PoolClient:
    """The client of a pool's jobs, and the backend of its live calls, which prices and classifies their answers."""

    store: Store
    client: JobClient
    backend: Backend


@dataclass
class JobActivities:
    """The activities of provider jobs."""

    jobs: Jobs

    def all(self) -> list[Callable[..., Any]]:
        return [self.form_jobs, self.submit_job, self.poll_job, self.collect_job, self.cancel_jobs]

    @activity.defn
    @activity_boundary
    async def form_jobs(self, request: FormRequest) -> FormedJobs:
        """Pack parked calls into jobs."""
        async with heartbeating():
            pool = await self._pool(request.ref, request.plan, request.pool)
            formed = await asyncio.to_thread(
                form_jobs, pool.store, request.ref.run, request.pool, request.files, client=pool.client,
                closing=request.closing,
            )  # fmt: skip
        limit = pool.client.limits.requests
        return FormedJobs(jobs=tuple(formed.jobs), open_requests=formed.open_requests, limit=limit)

    @activity.defn
    @activity_boundary
    async def submit_job(self, request: JobRequest) -> JobProgress:
        """Submit a job once its most cost is reserved."""
        settings, where = current(), (request.ref.run, request.pool, request.job)
        async with heartbeating():
            pool = await self._pool(request.ref, request.plan, request.pool)
            day = await asyncio.to_thread(_reserve, pool.store, request, pool.client.limits.least)
            if isinstance(day, JobProgress):
                return day
            state = await submit(pool.store, *where, pool.client, patience=_patience())
            await asyncio.to_thread(_hold, pool.store, request)
        waits = state.wait_s if state.state == "waiting" else _look_again_s(settings, 0)
        return JobProgress(state=state, look_again_s=waits, day=day)

    @activity.defn
    @activity_boundary
    async def poll_job(self, request: JobRequest) -> JobProgress:
        """Ask the provider how far a job is."""
        async with heartbeating():
            pool = await self._pool(request.ref, request.plan, request.pool)
            state = await poll(pool.store, request.ref.run, request.pool, request.job, pool.client)
        return JobProgress(state=state, look_again_s=_look_again_s(current(), request.looks + 1), day=request.day)

    @activity.defn
    @activity_boundary
    async def collect_job(self, request: JobRequest) -> JobEnd:
        """Write a job's answers to the journals of the partitions that wait for them, and settle its cost."""
        where = request.ref.run, request.pool, request.job
        async with heartbeating():
            pool = await self._pool(request.ref, request.plan, request.pool)
            end = await collect(pool.store, *where, pool.client, pool.backend, pause_s=_patience().pause_s)
            spent = Amount(end.nano_usd, end.tokens)
            await asyncio.to_thread(job_budget.settle, pool.store, request.ref.run, request.job, request.day, spent)
        return end

    @activity.defn
    @activity_boundary
    async def cancel_jobs(self, request: CancelJobs) -> CancelledJobs:
        """Cancel jobs at the provider. What they have answered is collected once they are over."""
        async with heartbeating():
            pool = await self._pool(request.ref, request.plan, request.pool)
            states = [
                await cancel(pool.store, request.ref.run, request.pool, job, pool.client, patience=_patience())
                for job in request.jobs
            ]
        undecided = [state.wait_s for state in states if state.state == "waiting"]
        return CancelledJobs(jobs=len(states) - len(undecided), undecided_s=max(undecided, default=None))

    async def _pool(self, ref: RunRef, plan: str, name: str) -> _PoolClient:
        """Return the client of a pool. Raises FatalModelError if the spec has no such model any more."""
        store = self.jobs.store(ref)
        limits = await asyncio.to_thread(load_limits, store, ref.run)
        job, _, services = await self.jobs.of(ref, plan, limits.tier)
        model = await asyncio.to_thread(model_of_pool, job.spec, name, services)
        client = client_for(model) if isinstance(model, ProviderChatModel) else None
        backend = getattr(model, "_tandem", None)
        if client is None or not isinstance(backend, Backend):
            raise FatalModelError(
                f"no model of the spec has the provider jobs of pool {name}.",
                hint="The address or the account of a model was changed in the environment; change it back.",
            )
        return _PoolClient(store, client, backend)


def _reserve(store: Store, request: JobRequest, least: int) -> str | JobProgress:
    """Charge a job that was not submitted to its budget. Returns the day that it is charged to; if it does not fit, the
    jobs that it is split in, or what the first of its requests need. `least`: with fewer requests nothing is sent."""
    run, pool, waiting = (
        request.ref.run,
        Pool(store, request.ref.run, request.pool),
        JobState(job=request.job, state="waiting"),
    )
    if pool.submitted(request.job) is not None:
        return request.day
    parts = pool.split_of(request.job)
    if parts is None:
        held = pool.requests_of(request.job)
        if len(held.requests) < least:
            return request.day
        day = job_budget.reserve(store, run, request.job, Amount(held.most_nano_usd, held.most_tokens))
        if day is not None:
            return day
    parts = split(pool, request.job, job_budget.left(store, run), least)
    if parts is not None:
        return JobProgress(state=waiting, look_again_s=0.0, parts=(parts.part, parts.rest))
    return JobProgress(state=waiting, look_again_s=0.0, needed=tuple(first_most(pool, request.job, least)))


def _hold(store: Store, request: JobRequest) -> None:
    """Charge a job that was submitted to a budget that was set meanwhile."""
    pool = Pool(store, request.ref.run, request.pool)
    intent = pool.intent(request.job)
    if intent is not None and pool.is_out(request.job):
        job_budget.hold(store, request.ref.run, request.job, Amount(intent.most_nano_usd, intent.most_tokens))


def _patience() -> Patience:
    return Patience.of_margin(current().job_margin.total_seconds())


def _look_again_s(settings: Settings, looks: int) -> float:
    """Return the seconds until the next look at a job."""
    first: float = settings.job_poll.total_seconds()
    return first * min(_GROWTH**looks, _LONGEST)
