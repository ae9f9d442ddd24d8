"""The activities: thin. They turn messages into calls of the modules that know how, beat, and cap what they return.

Blocking work runs in threads. Every activity beats in the background with counts only; resuming is from the journal,
never from heartbeat details.
"""

import asyncio
import datetime as dt
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from temporalio import activity
from temporalio.service import RPCError, RPCStatusCode

from pipeline import budgets, catalogue, heap, journals, plans, publish, questions, reports, rows, story, story_page
from pipeline import commit as commits
from pipeline.beats import beating, translated
from pipeline.controls import Controls, load_limits, save_limits
from pipeline.enrich import batch_context, enrich_batch, waiting_rows
from pipeline.notify import notify
from pipeline.partitions import answers_of, load_opened, open_partition
from pipeline.plans import Job
from pipeline.purse import Purses
from pipeline.scheduled import ask
from pipeline.settings import purse_folder, spool_folder
from pipeline.spool import Spools
from pipeline.stores import Store, open_store
from pipeline.turns import Turns
from schemas import ids
from schemas.errors import BudgetReached, CodeMismatch, ConnectionFailed, TandemError
from schemas.messages.base import Outcome, RunRef
from schemas.messages.batch import BatchRequest, BatchResult, RowInput, Spent, StepResult
from schemas.messages.partition import (
    Answers,
    AnswersRequest,
    CloseRequest,
    Holder,
    HolderRequest,
    Opened,
    OpenRequest,
    PartitionResult,
    PublishRequest,
)
from schemas.messages.run import (
    FinaliseRequest,
    Notified,
    NotifyRequest,
    Page,
    PageRequest,
    PlanRef,
    PlanRequest,
    Reckoned,
    Reckoning,
    RunResult,
    SetLimits,
    SetLimitsRequest,
)
from schemas.messages.schedule import Asked, AskRequest
from schemas.plan import Plan
from schemas.staging import OpenedPartition
from stages.execution.single_flight import Shared
from stages.models.errors import Waiting
from stages.models.factory import ModelServices
from stages.models.row_scope import Tally
from stages.stage_digests import code_digests

log = logging.getLogger("tandem.activities")
_CODE_WAIT = dt.timedelta(seconds=10)
# Of partitions that are published at once: a row takes some 500 bytes in the sums over the journal and its merging, and
# a merge of data holds a few row groups.
_PUBLISHED_ROWS = 20_000
_OPENED_ROWS = 100_000  # of partitions that are opened at once: joining a row to its journal takes some 300 bytes
_STOPS_RUN = frozenset(("FatalModelError", "BudgetReached"))


@dataclass
class Activities:
    """One a worker. It holds what batches of a process share: models' limiters, prepared jobs, rows in flight."""

    services: ModelServices = field(default_factory=ModelServices)
    drain: asyncio.Event = field(default_factory=asyncio.Event)
    spools: Spools = field(default_factory=lambda: Spools(spool_folder()))
    controls: Controls = field(default_factory=Controls)
    purses: Purses = field(default_factory=lambda: Purses(purse_folder()))
    _publishing: Turns = field(default_factory=lambda: Turns(_PUBLISHED_ROWS))
    _opening: Turns = field(default_factory=lambda: Turns(_OPENED_ROWS))
    _jobs: dict[tuple[str, str], "asyncio.Task[tuple[Job, Plan, ModelServices]]"] = field(default_factory=dict)
    _stores: dict[str, Store] = field(default_factory=dict)
    _shared: WeakValueDictionary[tuple[str, str, str], Shared] = field(default_factory=WeakValueDictionary)

    def all(self) -> list[Callable[..., Any]]:
        return [
            self.plan, self.read_page, self.open, self.enrich_batch, self.step_row, self.answers, self.publish,
            self.close, self.finalise, self.holder, self.set_limits, self.reckon, self.ask, self.notify,
        ]  # fmt: skip

    def store(self, ref: RunRef) -> Store:
        if ref.sink not in self._stores:
            self._stores[ref.sink] = open_store(ref.sink)
        return self._stores[ref.sink]

    async def _job(self, ref: RunRef, plan_key: str) -> tuple[Job, Plan, ModelServices]:
        """The plan's job, and the services that its models use: prepared once a process. Raises CodeMismatch where the
        code here is not what was planned."""
        key = (ref.sink, plan_key)
        if key not in self._jobs:
            if len(self._jobs) > 8:
                self._jobs.pop(next(iter(self._jobs)))
            self._jobs[key] = asyncio.create_task(asyncio.to_thread(_prepare, self.store(ref), plan_key, self.services))
        try:
            return await asyncio.shield(self._jobs[key])
        except Exception:  # a failed preparation is not kept; a cancel, which is no Exception, leaves it to the others
            self._jobs.pop(key, None)
            raise

    @activity.defn
    @translated
    async def plan(self, request: PlanRequest) -> PlanRef:
        """List and split the input, decide for each selected partition, write the plan."""
        async with beating() as beat:
            return await asyncio.to_thread(_plan, self.store(request.ref), request, self.services, beat.note)

    @activity.defn
    @translated
    async def read_page(self, request: PageRequest) -> Page:
        async with beating():
            return await asyncio.to_thread(plans.load_page, self.store(request.ref), request.plan, request.page)

    @activity.defn
    @translated
    async def open(self, request: OpenRequest) -> Opened:
        """Fix base and batches of a partition, join its journal."""
        store = self.store(request.ref)
        async with beating() as beat:
            job, plan, _ = await self._job(request.ref, request.plan)
            folder = ids.staging_folder(request.partition, activity.info().workflow_run_id or "")
            if request.lost_to is not None:
                await asyncio.to_thread(commits.reopen, store, request.partition, base=request.lost_to)
            async with self._opening.taken(request.limit):
                opening = await asyncio.to_thread(
                    open_partition, job, plan, store, request.partition, limit=request.limit, folder=folder,
                    rerun=plan.selection.reprocess == "all", note=beat.note,
                )  # fmt: skip
        if opening.opened is None or opening.key is None:
            return Opened(opened="", base=opening.base, batches=0, rows=0, up_to_date=True)
        return Opened(
            opened=opening.key, base=opening.base, batches=len(opening.opened.batches), rows=opening.opened.rows
        )

    @activity.defn
    @translated
    async def enrich_batch(self, request: BatchRequest) -> BatchResult:
        """The rows of one batch through the stages. A drain or a long wait is a result, not a failure."""
        store = self.store(request.ref)
        async with beating() as beat:
            try:
                job, _, services = await self._job(request.ref, request.plan)
            except CodeMismatch as exc:
                return BatchResult(state="waiting", until=dt.datetime.now(dt.UTC) + _CODE_WAIT, reason=exc.message)
            opened = await asyncio.to_thread(load_opened, store, request.opened)
            batch = opened.batches[request.batch]
            answers = await asyncio.to_thread(answers_of, store, opened, anew=request.answered)
            context = await batch_context(
                job, store, request.ref.run, request.partition, request.batch, batch,
                self._shared_of(request), self.drain, self.spools, answers,
            )  # fmt: skip
            context.on_row, beat.tally = beat.note, context.tally
            async with (
                self.controls.followed(store, request.ref.run, request.plan, _applied_to(job, services)),
                self.purses.of(store, request.ref) as context.purse,
            ):
                done = await enrich_batch(job, store, opened.folder, request.partition, request.batch, batch, context)
        spent = _spent(beat.tally)
        if done.receipt:
            return BatchResult(
                state="done", receipt=done.receipt, rows=done.counts.rows_in, rejected=done.counts.rejected,
                parked=done.parked, spent=spent,
            )  # fmt: skip
        if done.by_row is not None:
            return BatchResult(state="rows", by_row=done.by_row, spent=spent)
        return BatchResult.model_validate({**_halted(done.stopped), "spent": spent})

    @activity.defn
    @translated
    async def step_row(self, request: RowInput) -> StepResult:
        """The next step of one row's graph, where nodes are activities."""
        store = self.store(request.ref)
        async with beating() as beat:
            try:
                job, _, services = await self._job(request.ref, request.plan)
            except CodeMismatch as exc:
                return StepResult(state="waiting", until=dt.datetime.now(dt.UTC) + _CODE_WAIT, reason=exc.message)
            opened = await asyncio.to_thread(load_opened, store, request.opened)
            answers = await asyncio.to_thread(answers_of, store, opened, anew=request.answered)
            batch = opened.batches[request.batch]
            stage, row, context = await rows.row_context(job, store, request, batch, answers, self.drain)
            beat.tally = context.tally
            async with (
                self.controls.followed(store, request.ref.run, request.plan, _applied_to(job, services)),
                self.purses.of(store, request.ref) as context.purse,
            ):
                outcome = await rows.step(stage, row, context)
        spent = _spent(beat.tally)
        if outcome.finished:
            return StepResult(state="done", spent=spent)
        if outcome.stopped is None and context.steps is not None and context.steps.more:
            return StepResult(state="more", spent=spent)
        return StepResult.model_validate({**_halted(outcome.stopped), "spent": spent})

    def _shared_of(self, request: BatchRequest) -> Shared:
        key = (request.ref.sink, request.ref.run, request.partition)
        found = self._shared.get(key)
        if found is None:
            found = self._shared[key] = Shared()
        return found

    @activity.defn
    @translated
    async def answers(self, request: AnswersRequest) -> Answers:
        """Count the questions of finished batches that people have answered, and have not."""
        async with beating():
            return await asyncio.to_thread(_answers, self.store(request.ref), request)

    @activity.defn
    @translated
    async def publish(self, request: PublishRequest) -> PartitionResult:
        """Commit the partition's next generation."""
        store = self.store(request.ref)
        async with beating() as beat:
            job, plan, _ = await self._job(request.ref, request.plan)
            opened = await asyncio.to_thread(load_opened, store, request.opened)
            async with self._publishing.taken(opened.rows):
                published = await asyncio.to_thread(
                    publish.publish, job, plan, store, opened, request.receipts, attempt=activity.info().attempt,
                    note=beat.note, rehearsal=request.rehearsal,
                )  # fmt: skip
                result = await asyncio.to_thread(_published, store, request, published, opened)
                if any(stage.spec.pending == "wait" for stage in job.stages):
                    await asyncio.to_thread(questions.no_longer_waiting, store, request.partition)
                if published.manifest is not None:
                    await self._tidy(job, store, published.manifest)
        return result

    async def _tidy(self, job: Job, store: Store, manifest: Any) -> None:
        try:
            await asyncio.to_thread(publish.after_commit, job, store, manifest, dt.datetime.now(dt.UTC))
        except Exception as exc:  # noqa: BLE001  it is published; whatever keeps it from being tidied must not undo that
            log.warning("%s: published, but not tidied up: %s", manifest.partition, exc)

    @activity.defn
    @translated
    async def close(self, request: CloseRequest) -> PartitionResult:
        """Write down how a partition ended without a publication, behind a fence where it was cancelled."""
        async with beating():
            return await asyncio.to_thread(_close, self.store(request.ref), request)

    @activity.defn
    @translated
    async def ask(self, request: AskRequest) -> Asked:
        """The request of a schedule's firing, or that nothing is to be done."""
        async with beating() as beat:
            return await asyncio.to_thread(ask, self.store(request.ref), request, self.services, beat.note)

    @activity.defn
    @translated
    async def notify(self, request: NotifyRequest) -> Notified:
        """Tell a hook of the spec how the run fares."""
        await notify(self.store(request.ref), request)
        return Notified()

    @activity.defn
    @translated
    async def holder(self, request: HolderRequest) -> Holder:
        """Which run is at work on a partition: the parent of its workflow."""
        ref = request.ref
        handle = activity.client().get_workflow_handle(
            ids.partition_workflow_id(ref.pipeline, ref.sink, request.partition)
        )
        try:
            async with beating():
                found = await handle.describe()
        except RPCError as exc:
            if exc.status == RPCStatusCode.NOT_FOUND:
                return Holder()
            raise ConnectionFailed(f"Temporal does not say who holds {request.partition}.") from exc
        return Holder(run=ids.run_of_workflow(found.parent_id or ""))

    @activity.defn
    @translated
    async def set_limits(self, request: SetLimitsRequest) -> SetLimits:
        """Write down what was set on a live run, where its workers look."""
        store, max_cost_usd = self.store(request.ref), request.limits.max_cost_usd
        async with beating():
            if max_cost_usd is not None:
                await asyncio.to_thread(budgets.raise_to, store, request.ref.run, max_cost_usd)
            return await asyncio.to_thread(save_limits, store, request.ref.run, request.limits)

    @activity.defn
    @translated
    async def reckon(self, request: Reckoning) -> Reckoned:
        """Is there room in a run's budget, now that nothing of it is in flight?"""
        async with beating():
            return await asyncio.to_thread(budgets.reckon, self.store(request.ref), request, self.purses.folder)

    @activity.defn
    @translated
    async def finalise(self, request: FinaliseRequest) -> RunResult:
        """Write the run's report."""
        store = self.store(request.ref)
        async with beating():
            result = await asyncio.to_thread(_finalise, store, request)
            try:
                await asyncio.to_thread(_catch_up, store, request.ref.run)
                await asyncio.to_thread(publish.sweep_superseded, store, dt.datetime.now(dt.UTC))
                await asyncio.to_thread(catalogue.update, store, dt.datetime.now(dt.UTC))
            except (TandemError, OSError) as exc:
                log.warning("the table, superseded files or the catalogue are not up to date: %s", exc)
        return result


def _spent(tally: Tally) -> Spent:
    return Spent(calls=tally.calls, cost_usd=round(tally.cost_usd, 6))


def _halted(stopped: TandemError | None) -> dict[str, Any]:
    """What kept a batch or a row from being finished, as a result. Raises what is a failure."""
    if isinstance(stopped, Waiting):
        until = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=stopped.seconds)
        return {"state": "waiting", "until": until, "reason": stopped.message}
    if isinstance(stopped, BudgetReached):
        return {"state": "short", "reason": stopped.message, "needed": stopped.needed}
    if stopped is not None:
        raise stopped
    return {"state": "handed_back", "reason": "the worker is shutting down"}


# In threads --------------------------------------------------------------------------------------------------------


def _catch_up(store: Store, run: str) -> None:
    asked = plans.load_request(store, run)
    if asked is not None:
        publish.catch_up(store, plans.load_spec_of(store, asked.spec), Path(asked.base))


def _plan(store: Store, request: PlanRequest, services: ModelServices, note: Callable[[int], None]) -> PlanRef:
    asked = plans.load_request(store, request.ref.run)
    if asked is None:
        raise TandemError(f"the request of run {request.ref.run!r} is gone from {store.uri}")
    spec = plans.load_spec_of(store, asked.spec)
    budgets.ensure(store, request.ref.run, spec.limits)
    job = plans.make_job(spec, Path(asked.base), store, services, note=note)
    decided = plans.decisions(job, store, asked.selection, dt.datetime.now(dt.UTC), note=note)
    written = plans.write_plan(store, request.ref, asked, job, decided, request.course)
    partitions = load_limits(store, request.ref.run).partitions  # of an earlier attempt of the run
    if partitions is None:
        return written
    return written.model_copy(update={"windows": written.windows.model_copy(update={"partitions": partitions})})


def _finalise(store: Store, request: FinaliseRequest) -> RunResult:
    result = reports.finalise(store, request)
    asked = plans.load_request(store, request.ref.run)
    hooks = plans.hooks_of(plans.load_spec_of(store, asked.spec)) if asked is not None else ()
    try:
        report = reports.load_report(store, request.ref.run)
        if report is not None:
            said = story.told(store, report)
            story.save(store, report.run, said)
            store.put(ids.report_page(report.run), story_page.page(report, said).encode())
    except (TandemError, OSError, ValueError) as exc:  # the report is there; its telling is for people
        log.warning("the story of run %s is not told: %s", request.ref.run, exc)
    return result.model_copy(update={"hooks": hooks})


def _prepare(store: Store, plan_key: str, shared: ModelServices) -> tuple[Job, Plan, ModelServices]:
    plan = plans.load_plan(store, plan_key)
    services = shared.apart()
    job = plans.job_of_plan(store, plan, services)
    here = code_digests(job.spec)
    if here != plan.code:
        changed = sorted(name for name in {*here, *plan.code} if here.get(name) != plan.code.get(name))
        raise CodeMismatch(
            f"the code of stage {changed[0]!r} here is not the planned one; waiting for a worker with it"
        )
    heap.settle()
    return job, plan, services


def _applied_to(job: Job, services: ModelServices) -> Callable[[SetLimits], None]:
    def apply(limits: SetLimits) -> None:
        services.limiters.resize(limits.rows_in_flight or job.spec.limits.rows_in_flight)

    return apply


def _published(
    store: Store, request: PublishRequest, published: publish.Published, opened: OpenedPartition
) -> PartitionResult:
    manifest = published.manifest
    kept: Outcome = "not_run" if request.rehearsal else "unchanged"
    result = PartitionResult(
        partition=request.partition,
        outcome="published" if manifest is not None else kept,
        generation=manifest.generation if manifest is not None else opened.base,
        counts=manifest.counts if manifest is not None else published.counts,
        reuse=published.reuse,
        shares=manifest.shares if manifest is not None else {},
        warnings=len(manifest.warnings) if manifest is not None else 0,
        usage=manifest.usage
        if manifest is not None
        else journals.usage_of_run(store, request.partition, request.ref.run),
    )
    reports.write_outcome(store, request.ref.run, result)
    return result


def _answers(store: Store, request: AnswersRequest) -> Answers:
    opened = load_opened(store, request.opened)
    rows = waiting_rows(store, opened, request.receipts)
    if request.tell:
        questions.say_waiting(store, request.partition, rows, base=opened.base)
    said = questions.with_answers(rows, questions.given(store, request.partition)).unique(questions.QUESTION)
    missing = said["answer"].null_count()
    return Answers(missing=missing, given=said.height - missing)


def _close(store: Store, request: CloseRequest) -> PartitionResult:
    outcome = request.outcome
    questions.no_longer_waiting(store, request.partition)
    if request.fence:
        won = commits.fence(
            store,
            request.partition,
            run=request.ref.run,
            pipeline=request.ref.pipeline,
            nonce=request.fence,
            base=request.base,
        )
        if won == "committed_first":
            outcome = "published"
    result = PartitionResult(
        partition=request.partition,
        outcome=outcome,
        usage=journals.usage_of_run(store, request.partition, request.ref.run),
        error=request.error,
        message=request.message,
        stops_run=request.error in _STOPS_RUN,
    )
    reports.write_outcome(store, request.ref.run, result)
    return result
