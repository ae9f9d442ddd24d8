"""Activities of a partition after it was opened: find its holder, count answers, publish, close."""

import asyncio
import contextlib
import datetime as dt
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from pipeline.activities.admission import MemoryAdmission
from pipeline.activities.boundary import activity_boundary, heartbeating
from pipeline.activities.indexing import Indexing
from pipeline.activities.jobs import Jobs
from pipeline.client.open_runs import status_of
from pipeline.enrichment.attempt import PartitionRun
from pipeline.enrichment.open import load_opened, open_partition
from pipeline.enrichment.staging import waiting_rows
from pipeline.journal import usage
from pipeline.journal.answers.coverage import NewRecords
from pipeline.journal.spool import Spools
from pipeline.planning.job import Job
from pipeline.publishing import cleanup
from pipeline.publishing.publish import Published
from pipeline.publishing.publish import publish as publish_partition
from pipeline.review import questions
from pipeline.runs import waiting
from pipeline.sinks import commits, outcomes
from pipeline.stores import Store
from schemas import ids
from schemas.errors import ChecksFailed, ConnectionFailed, ObjectMissing, PartitionHeld, RejectRateExceeded, by_code
from schemas.manifest import Counts, Manifest, Reuse
from schemas.messages.base import Outcome
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
from schemas.staging import Refusal

log = logging.getLogger("tandem.activities")
# Rows of partitions that are published at once: a row takes some 500 bytes to sum and merge the journal, and a merge
# of data holds a few row groups.
_PUBLISHED_ROWS = 20_000
# Rows of partitions that are opened at once: joining a row to its journal takes some 300 bytes. One that keeps a core
# busy takes half of the room at least, as each reads its journal some thousand records at a time.
_OPENED_ROWS = 100_000
_BUSY_ROWS = 4_000
_REFUSALS = (ChecksFailed, RejectRateExceeded)  # errors of partitions that were enriched fully


@dataclass
class PartitionActivities:
    """The activities of a partition. Openings share one memory limit, publications another."""

    jobs: Jobs
    spools: Spools
    _publishing: MemoryAdmission = field(default_factory=lambda: MemoryAdmission(_PUBLISHED_ROWS))
    _opening: MemoryAdmission = field(default_factory=lambda: MemoryAdmission(_OPENED_ROWS))
    _indexing: Indexing = field(default_factory=Indexing)

    def all(self) -> list[Callable[..., Any]]:
        return [self.holder, self.answers, self.publish, self.close]

    async def opened(self, request: OpenRequest, store: Store) -> Opened:
        """Fix the base and the batches of a partition, and join its journal. Raises TandemError."""
        async with heartbeating() as progress:
            job, plan, _ = await self.jobs.of(request.ref, request.plan)
            await refuse_held(activity.client(), store, request)
            folder = ids.staging_folder(request.partition, activity.info().workflow_run_id or "")
            if request.lost_to is not None:
                await asyncio.to_thread(commits.reopen, store, request.partition, base=request.lost_to)
            await asyncio.to_thread(self.spools.absorb, store, request.partition)
            async with self._opening.reserve(_room_to_open(request.limit)):
                work = PartitionRun(job, plan, store, request.partition, progress.note)
                opening = await asyncio.to_thread(open_partition, work, limit=request.limit, folder=folder)
        if opening.opened is None or opening.key is None:
            return Opened(opened="", base=opening.base, batches=0, rows=0, up_to_date=True)
        return Opened(
            opened=opening.key,
            base=opening.base,
            batches=len(opening.opened.batches),
            rows=opening.opened.rows,
            filtered=opening.opened.rows_filtered,
        )

    @activity.defn
    @activity_boundary
    async def holder(self, request: HolderRequest) -> Holder:
        """Return the run that holds a partition: the parent of its workflow."""
        ref = request.ref
        handle = activity.client().get_workflow_handle(
            ids.partition_workflow_id(ref.pipeline, ref.sink, request.partition)
        )
        try:
            async with heartbeating():
                description = await handle.describe()
        except RPCError as exc:
            if exc.status == RPCStatusCode.NOT_FOUND:
                return Holder()
            raise ConnectionFailed(f"Temporal does not answer which run holds {request.partition}.") from exc
        return Holder(run=ids.run_of_workflow(description.parent_id or ""))

    @activity.defn
    @activity_boundary
    async def answers(self, request: AnswersRequest) -> Answers:
        """Count the questions of finished batches with and without an answer."""
        async with heartbeating():
            return await asyncio.to_thread(_answers, self.jobs.store(request.ref), request)

    @activity.defn
    @activity_boundary
    async def publish(self, request: PublishRequest) -> PartitionResult:
        """Commit the partition's next generation."""
        return await self.published(request, self.jobs.store(request.ref))

    async def published(self, request: PublishRequest, store: Store) -> PartitionResult:
        """Do it, from what is staged in this store. Raises TandemError."""
        async with heartbeating() as progress:
            job, plan, _ = await self.jobs.of(request.ref, request.plan)
            try:
                opened = await asyncio.to_thread(load_opened, store, request.opened)
            except ObjectMissing:  # an earlier attempt has removed it after its commit, and its result was lost
                return await asyncio.to_thread(published_before, store, request)
            async with self._publishing.reserve(opened.rows_enriched):
                published = await asyncio.to_thread(
                    publish_partition, PartitionRun(job, plan, store, request.partition, progress.note), opened,
                    request.receipts, attempt=activity.info().attempt, rehearsal=request.rehearsal,
                )  # fmt: skip
                result = await asyncio.to_thread(_published, store, request, published, opened.base)
                if any(stage.spec.pending == "wait" for stage in job.stages):
                    await asyncio.to_thread(questions.remove_waiting, store, request.partition)
                if published.manifest is not None:
                    await self._tidy(job, store, published.manifest, request.opened, opened.folder)
        return result

    @activity.defn
    @activity_boundary
    async def close(self, request: CloseRequest) -> PartitionResult:
        """Record the outcome of a partition without a publication, after a fence if it was cancelled."""
        async with heartbeating():
            staging = ids.staging_folder(request.partition, activity.info().workflow_run_id or "")
            return await asyncio.to_thread(_close, self.jobs.store(request.ref), request, staging)

    async def _tidy(self, job: Job, store: Store, manifest: Manifest, opened: str, folder: str) -> None:
        try:
            new: list[NewRecords] = []
            await asyncio.to_thread(
                cleanup.after_commit, job, store, manifest, dt.datetime.now(dt.UTC), lambda _, some: new.extend(some)
            )
            await self._indexing.add(store, new)
            await asyncio.to_thread(cleanup.remove_staged, store, opened, folder)
        except Exception as exc:  # noqa: BLE001  it is published; a failed cleanup must not undo that
            log.warning("%s: published, but not cleaned up: %s", manifest.partition, exc)


def _room_to_open(rows: int) -> int:
    return rows if rows < _BUSY_ROWS else max(rows, _OPENED_ROWS // 2)


async def refuse_held(client: Client, store: Store, request: OpenRequest) -> None:
    """Raise PartitionHeld while another run that is open waits for provider jobs with calls of the partition;
    ConnectionFailed if Temporal does not tell."""
    found = await asyncio.to_thread(waiting.waiting_run, store, request.partition)
    if found is None:
        return
    if found.run != request.ref.run:
        try:
            status = await status_of(client, found.pipeline, request.ref.sink, found.run)
        except RPCError as exc:
            raise ConnectionFailed(f"Temporal does not answer whether {found.run} holds {request.partition}.") from exc
        if status == WorkflowExecutionStatus.RUNNING:
            raise PartitionHeld(f"held by {found.run}, which waits for provider jobs")
    await asyncio.to_thread(waiting.forget, store, request.partition)


def published_before(store: Store, request: PublishRequest) -> PartitionResult:
    """Return the result of an earlier attempt that has committed for this run. Raises ObjectMissing without one."""
    manifest = commits.current(store, request.partition)
    if manifest is None or manifest.run != request.ref.run or manifest.kind == "tombstone":
        recorded = outcomes.load_outcome(store, request.ref.run, request.partition)
        if recorded is None or recorded.outcome != "published":
            raise ObjectMissing(f"{store.uri}/{request.opened} is gone.")
        return recorded.model_copy(update={"checks": ()})
    return _published(store, request, Published(manifest, manifest.counts, manifest.reuse), manifest.generation)


def _published(store: Store, request: PublishRequest, published: Published, base: int) -> PartitionResult:
    manifest = published.manifest
    kept: Outcome = "not_run" if request.rehearsal else "unchanged"
    result = PartitionResult(
        partition=request.partition,
        outcome="published" if manifest is not None else kept,
        generation=manifest.generation if manifest is not None else base,
        counts=manifest.counts if manifest is not None else published.counts,
        reuse=published.reuse,
        shares=manifest.shares if manifest is not None else {},
        warnings=len(manifest.warnings) if manifest is not None else 0,
        usage=manifest.usage if manifest is not None else usage.usage_of_run(store, request.partition, request.ref.run),
    )
    broken = manifest.checks if manifest is not None else ()
    outcomes.write_outcome(store, request.ref.run, result.model_copy(update={"checks": broken}))
    return result


def _answers(store: Store, request: AnswersRequest) -> Answers:
    opened = load_opened(store, request.opened)
    rows = waiting_rows(store, opened, request.receipts)
    if request.tell:
        questions.put_waiting(store, request.partition, rows, base=opened.base)
    answered = questions.with_answers(rows, questions.read_answers(store, request.partition)).unique(questions.QUESTION)
    missing = answered["answer"].null_count()
    return Answers(missing=missing, given=answered.height - missing)


def _close(store: Store, request: CloseRequest, staging: str) -> PartitionResult:
    if request.outcome == "waiting":
        waiting.note(store, request.partition, waiting.Waiting(pipeline=request.ref.pipeline, run=request.ref.run))
        return PartitionResult(partition=request.partition, outcome="waiting")
    outcome, counts = request.outcome, _final_counts(store, request, staging)
    questions.remove_waiting(store, request.partition)
    if request.fence:
        won = commits.fence(
            store,
            request.partition,
            run=request.ref.run,
            pipeline=request.ref.pipeline,
            nonce=request.fence,
            base=request.base if request.base >= 0 else None,
        )
        if won == "committed_first":
            outcome, counts = "published", _committed(store, request)
    result = PartitionResult(
        partition=request.partition,
        outcome=outcome,
        counts=counts.counts,
        reuse=counts.reuse,
        shares=counts.shares,
        usage=usage.usage_of_run(store, request.partition, request.ref.run),
        error=request.error,
        message=request.message,
        stops_run=by_code(request.error).stops_run,
        checks=counts.checks,
    )
    outcomes.write_outcome(store, request.ref.run, result)
    return result.model_copy(update={"checks": ()})


def _final_counts(store: Store, request: CloseRequest, staging: str) -> Refusal:
    """Return the counts of a refused partition; if it failed before, all its rows are unfinished."""
    if request.outcome not in ("failed", "cancelled"):
        return Refusal(counts=Counts(), reuse=Reuse())
    if by_code(request.error) in _REFUSALS:
        with contextlib.suppress(ObjectMissing):
            return Refusal.model_validate_json(store.get(ids.refusal(staging)))
    return Refusal(counts=Counts(rows_in=request.rows, unfinished=request.rows), reuse=Reuse())


def _committed(store: Store, request: CloseRequest) -> Refusal:
    """Return the counts of the generation that was committed before the cancel."""
    manifest = commits.current(store, request.partition)
    if manifest is None or manifest.run != request.ref.run:
        return Refusal(counts=Counts(), reuse=Reuse())
    return Refusal(counts=manifest.counts, reuse=manifest.reuse, shares=manifest.shares, checks=manifest.checks)
