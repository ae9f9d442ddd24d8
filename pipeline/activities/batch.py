"""Activities of rows: run a batch through the stages, or one step of one row.

A drain or a long wait is a result, not a failure: it takes no attempt.
"""

import asyncio
import datetime as dt
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any, Protocol
from weakref import WeakValueDictionary

from pydantic import ValidationError
from temporalio import activity

from pipeline.activities.admission import MemoryAdmission
from pipeline.activities.boundary import activity_boundary, heartbeating
from pipeline.activities.jobs import Jobs
from pipeline.enrichment import row_step
from pipeline.enrichment.answered_batch import Listeners, reuse_answers
from pipeline.enrichment.attempt import BatchAttempt
from pipeline.enrichment.batch import enrich_batch
from pipeline.enrichment.context import batch_context, row_context
from pipeline.enrichment.open import answers_of, load_opened
from pipeline.enrichment.parked import open_parking, write_parked
from pipeline.journal.announcements import AnnouncementsByRun
from pipeline.journal.spool import Spools
from pipeline.limits.live_limits import LiveLimits, load_limits
from pipeline.limits.run_budget import RunBudget, RunBudgets
from pipeline.planning.batches import MOST_ANSWERED_ROWS
from pipeline.planning.job import Job
from pipeline.provider_jobs.collection import refused_calls
from pipeline.stores import Store
from pipeline.telemetry.traces.rows import batch_spans
from schemas import ids
from schemas.errors import BudgetReached, TandemError
from schemas.messages.base import RunRef
from schemas.messages.batch import (
    BatchRequest,
    BatchResult,
    Heartbeat,
    ModelLoad,
    RowInput,
    Spent,
    StepResult,
    largest,
)
from schemas.messages.run import SetLimits
from schemas.spec.tiers import uses_tier
from stages.execution.attempt import BatchContext
from stages.execution.equal_rows.claims import Claims
from stages.execution.equal_rows.single_flight import Shared
from stages.execution.guards.isolation import Isolation, RowWatch
from stages.journal.records import AnswerRecord
from stages.models.failures.errors import Waiting
from stages.models.row.parking import BatchParking
from stages.models.row.scope import Tally
from stages.models.settings.choice import ModelServices
from stages.observer import BatchObserver

_UNLIMITED = 1 << 60
_COPIES = 3  # of a batch's table while it is enriched: as read, between stages, as staged files
_REUSED_ROWS = 2 * MOST_ANSWERED_ROWS  # of batches that are made of known answers at once, each of which takes a core
# Of batches of a run whose graphs run at once, so many, or so many times those in flight: a batch holds the records of
# its answers, 4 KB a row, until its last row has ended.
_RUNNING_ROWS, _TIMES_IN_FLIGHT = 4_000, 4
_MOST_LOADS = 8
_RECENT = 4  # runs whose answers are kept for a while, as their later batches may have equal rows


class Supervision(Protocol):
    """The services of a supervisor for batches in its child processes. `watch` is notified of running rows."""

    @property
    def watch(self) -> RowWatch: ...

    def begin(self, max_memory: int | None) -> int:
        """Note that a batch begins whose run sets this `limits.max_memory`. Returns the bytes that the process has for
        all its batches and rows."""

    def claims_of(self, request: BatchRequest, shared: Shared) -> Claims | None:
        """Return the claims by which equal rows of several processes are shared, None for one process."""

    def stuck(self, row: str) -> None:
        """Report a row that has timed out while its thread goes on."""

    def isolation(self, request: BatchRequest, spools: Spools, tally: Tally, row: str = "") -> Isolation:
        """Return processes for rows that may kill the process they run in; their cost is added to `tally`. `row`: the
        fingerprint of the only row, where the rows of a batch run one by one at the same time."""


@dataclass
class BatchMemory:
    """Bytes of a process for the tables of its batches, and for the rows whose graphs run: half for each."""

    batches: MemoryAdmission = field(default_factory=lambda: MemoryAdmission(_UNLIMITED))
    rows: MemoryAdmission = field(default_factory=lambda: MemoryAdmission(_UNLIMITED))

    def resize(self, room: int) -> None:
        for half in (self.batches, self.rows):
            half.resize(room // 2)


@dataclass
class BatchActivities:
    """The activities of rows, with what batches of a process share: rows in flight, spools, budgets, live limits."""

    jobs: Jobs
    budgets: RunBudgets
    drain: asyncio.Event
    spools: Spools
    controls: LiveLimits = field(default_factory=LiveLimits)
    supervision: Supervision | None = None
    _announcements: AnnouncementsByRun = field(default_factory=AnnouncementsByRun)
    _memory: BatchMemory = field(default_factory=BatchMemory)
    _reusing: MemoryAdmission = field(default_factory=lambda: MemoryAdmission(_REUSED_ROWS))
    _running: WeakValueDictionary[tuple[str, str], MemoryAdmission] = field(default_factory=WeakValueDictionary)
    _recent: deque[Shared] = field(default_factory=lambda: deque(maxlen=_RECENT))
    _shared: WeakValueDictionary[tuple[str, str], Shared] = field(default_factory=WeakValueDictionary)

    def all(self) -> list[Callable[..., Any]]:
        return [self.enrich_batch, self.step_row]

    @activity.defn
    @activity_boundary
    async def enrich_batch(self, request: BatchRequest) -> BatchResult:
        """Run the rows of one batch through the stages. A drain or a long wait is a result, not a failure."""
        return await self.enriched(request, self.jobs.store(request.ref))

    async def enriched(self, request: BatchRequest, store: Store) -> BatchResult:
        """Do it, with what is staged in this store."""
        spool = await asyncio.to_thread(self.spools.identity)
        async with AsyncExitStack() as following, heartbeating(spool=spool) as progress:
            await _note_lost_attempt(store, request, spool)
            job, services, in_flight = await self._job(request)
            opened = await asyncio.to_thread(load_opened, store, request.opened)
            attempt = BatchAttempt.of(job, store, request.ref.run, opened, request.batch)
            answers = await asyncio.to_thread(answers_of, store, opened, latest=request.answered)
            announced = await following.enter_async_context(self._announcements.followed(store, request.ref.run))
            progress.loads = partial(_loads, services)
            size = await asyncio.to_thread(_bytes_of, attempt)
            if self.supervision is not None:
                self._memory.resize(self.supervision.begin(job.spec.limits.max_memory))
            async with self._memory.batches.reserve(size):
                listeners = Listeners(progress.note, announced, _observer(request, job))
                async with self._reusing.reserve(attempt.batch.rows):
                    done = await reuse_answers(attempt, self.spools, listeners)
                if done is None:
                    async with self._running_of(attempt, in_flight).reserve(attempt.batch.rows):
                        context = await self._context(request, attempt, services, answers, listeners)
                        progress.tally, progress.waiting = context.tally, services.limiters.silence
                        async with self._under_limits(request, job, services) as context.budget:
                            done = await enrich_batch(attempt, context)
        spent = _spent(progress.tally)
        if done.receipt:
            return BatchResult(
                state="done", receipt=done.receipt, rows=done.counts.rows_in, rejected=done.counts.rejected,
                parked=done.parked, spent=spent,
            )  # fmt: skip
        if done.by_row is not None:
            return BatchResult(state="rows", by_row=done.by_row, spent=spent)
        if done.parked_calls.calls:
            return BatchResult(state="parked", parked_calls=done.parked_calls, spent=spent)
        return BatchResult.model_validate({**_halted(done.stopped), "spent": spent})

    async def _context(
        self,
        request: BatchRequest,
        attempt: BatchAttempt,
        services: ModelServices,
        answers: Sequence[AnswerRecord],
        listeners: Listeners,
    ) -> BatchContext:
        """Return the context in which a batch's rows are run."""
        shared = self._shared_of(request)
        context = await batch_context(attempt, shared, self.drain, self.spools, answers, listeners.announced)
        context.no_calls = services.no_calls
        context.parking = await self._parking(request, attempt, services)
        context.on_row, context.observer = listeners.on_row, listeners.observer
        if self.supervision is not None:
            context.watch = self.supervision.watch
            context.memory = self._memory.rows
            context.claims = self.supervision.claims_of(request, context.shared)
            context.on_stuck = self.supervision.stuck
            context.isolation = self.supervision.isolation(request, self.spools, context.tally)
        return context

    @activity.defn
    @activity_boundary
    async def step_row(self, request: RowInput) -> StepResult:
        """Run the next step of one row's graph, where nodes are activities."""
        store = self.jobs.store(request.ref)
        async with heartbeating() as progress:
            job, services, _ = await self._job(request)
            opened = await asyncio.to_thread(load_opened, store, request.opened)
            answers = await asyncio.to_thread(answers_of, store, opened, latest=request.answered)
            attempt = BatchAttempt.of(job, store, request.ref.run, opened, request.batch)
            stage, row, context = await row_context(attempt, request, answers, self.drain)
            context.no_calls = services.no_calls
            context.parking = await self._parking(request, attempt, services)
            progress.tally, progress.waiting = context.tally, services.limiters.silence
            progress.loads = partial(_loads, services)
            context.observer = _observer(request, job)
            if self.supervision is not None:
                self._memory.resize(self.supervision.begin(job.spec.limits.max_memory))
                context.watch = self.supervision.watch
                context.memory = self._memory.rows
                batch = BatchRequest(
                    ref=request.ref, plan=request.plan, partition=request.partition, opened=request.opened,
                    batch=request.batch,
                )  # fmt: skip
                context.isolation = self.supervision.isolation(
                    batch, self.spools, context.tally, context.steps.key[1] if context.steps is not None else ""
                )
            async with self._under_limits(request, job, services) as context.budget:
                outcome = await row_step.step(stage, row, context)
            calls = context.parking.calls if context.parking is not None else []
            if calls and outcome.stopped is None and not outcome.drained:
                parked = await asyncio.to_thread(write_parked, attempt, calls)
                return StepResult(state="parked", parked_calls=parked, spent=_spent(progress.tally))
        spent = _spent(progress.tally)
        if outcome.finished:
            return StepResult(state="done", spent=spent)
        if outcome.stopped is None and context.steps is not None and context.steps.more:
            return StepResult(state="more", spent=spent)
        return StepResult.model_validate({**_halted(outcome.stopped), "spent": spent})

    async def _job(self, request: BatchRequest | RowInput) -> tuple[Job, ModelServices, int]:
        """Return the plan's job, its calls paid at the tier that was set last, and the rows in flight as set last."""
        limits = await asyncio.to_thread(load_limits, self.jobs.store(request.ref), request.ref.run)
        job, _, services = await self.jobs.of(request.ref, request.plan, limits.tier)
        return job, services, limits.rows_in_flight or job.spec.limits.rows_in_flight

    def _running_of(self, attempt: BatchAttempt, in_flight: int) -> MemoryAdmission:
        """Return the room for rows of batches of a run whose graphs run; always for two batches, so that one may begin
        as another ends."""
        key = attempt.store.uri, attempt.run
        room = self._running.get(key)
        if room is None:
            room = self._running[key] = MemoryAdmission(0)
        room.resize(max(_RUNNING_ROWS, _TIMES_IN_FLIGHT * in_flight, 2 * attempt.batch.rows))
        return room

    async def _parking(
        self, request: BatchRequest | RowInput, attempt: BatchAttempt, services: ModelServices
    ) -> BatchParking | None:
        """Return where calls wait for provider jobs; None if all are live."""
        by_jobs = services.tier == "batch" if services.tier is not None else uses_tier(attempt.job.spec, "batch")
        if not by_jobs or not request.waves.may_park or services.no_calls:
            return None
        found = await asyncio.to_thread(refused_calls, attempt.store, attempt.run, attempt.partition)
        refused = {asked: error for (asked, _), error in found.items()}
        return await asyncio.to_thread(open_parking, attempt, request.waves, refused)

    @asynccontextmanager
    async def _under_limits(
        self, request: BatchRequest | RowInput, job: Job, services: ModelServices
    ) -> AsyncIterator[RunBudget]:
        """Yield the run's budget and follow its live limits; they end with the last batch of a plan."""
        store, ref = self.jobs.store(request.ref), request.ref
        try:
            async with (
                self.controls.followed(store, ref.run, request.plan, self._applied_to(ref, job, services)),
                self.budgets.of(store, ref) as budget,
            ):
                yield budget
        finally:
            if self.controls.is_idle(request.plan):
                services.limiters.end()

    def _applied_to(self, ref: RunRef, job: Job, services: ModelServices) -> Callable[[SetLimits], Awaitable[None]]:
        async def apply(limits: SetLimits) -> None:
            services.limiters.resize(limits.rows_in_flight or job.spec.limits.rows_in_flight)
            if limits.max_cost_usd is not None:
                await self.budgets.was_set(ref)

        return apply

    def _shared_of(self, request: BatchRequest) -> Shared:
        key = request.ref.sink, request.ref.run
        shared = self._shared.get(key)
        if shared is None:
            shared = self._shared[key] = Shared()
        if not self._recent or self._recent[-1] is not shared:
            self._recent.append(shared)
        return shared


def _bytes_of(attempt: BatchAttempt) -> int:
    """Estimate the bytes that a batch's tables hold."""
    snapshot = attempt.job.snapshot
    return _COPIES * attempt.batch.rows * snapshot.row_bytes(snapshot.entry(attempt.partition))


def _observer(request: BatchRequest | RowInput, job: Job) -> BatchObserver | None:
    return batch_spans(request.ref, request.partition, request.batch, job.spec, activity.info().attempt)


async def _note_lost_attempt(store: Store, request: BatchRequest, spool: str) -> None:
    """Record that the previous attempt ended on a machine whose unflushed records cannot be read: paid answers may be
    lost with them."""
    info = activity.info()
    if info.attempt == 1 or not info.heartbeat_details:
        return
    try:
        last = Heartbeat.model_validate(info.heartbeat_details[-1])
    except ValidationError:  # of an earlier version
        return
    if last.spool and last.spool != spool:
        key = ids.lost_attempt(request.ref.run, request.partition, request.batch, info.attempt - 1)
        await asyncio.to_thread(store.put, key, b"{}")


def _spent(tally: Tally) -> Spent:
    return Spent(
        calls=tally.calls,
        cost_usd=round(tally.cost_usd, 6),
        rejects=largest(tally.rejects),
        failed_calls=largest(tally.failed_calls),
    )


def _loads(services: ModelServices) -> tuple[ModelLoad, ...]:
    """Return the load of each model that was called lately, by the names that people know."""
    found = []
    for key, queue in services.limiters.places():
        _, in_flight, waiting = queue.use_now()
        if in_flight or waiting or queue.out:
            rate = queue.rate * 60
            found.append(
                ModelLoad(
                    model=key.rpartition(":")[0], in_flight=queue.in_flight, waiting=waiting, out=queue.out,
                    per_minute=round(rate, 1) if rate < inf else None,
                )
            )  # fmt: skip
    return tuple(found[:_MOST_LOADS])


def _halted(stopped: TandemError | None) -> dict[str, Any]:
    """Return the reason of an unfinished batch or row as a result. Raises it if it is a failure."""
    if isinstance(stopped, Waiting):
        until = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=stopped.seconds)
        return {"state": "waiting", "until": until, "reason": stopped.message}
    if isinstance(stopped, BudgetReached):
        return {"state": "short", "reason": stopped.message, "needed": stopped.needed}
    if stopped is not None:
        raise stopped
    return {"state": "handed_back", "reason": "the worker is shutting down"}
