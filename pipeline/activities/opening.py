"""The activity that opens a partition. A small one is enriched and published by it, too, as far as that gets.

open ─▶ its only batch ─▶ publish        nothing is staged outside this process, and nothing asks Temporal between
          └ a wait, a question to a person, a lost commit: what is staged is put down, and its workflow goes on
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

from temporalio import activity

from pipeline.activities.batch import BatchActivities
from pipeline.activities.boundary import activity_boundary
from pipeline.activities.jobs import Jobs
from pipeline.activities.partition import PartitionActivities, published_before
from pipeline.activities.short_work import short_work
from pipeline.stores import Store
from pipeline.stores.held import HeldStore
from pipeline.telemetry import log_context
from schemas import ids
from schemas.errors import CommitConflict, ObjectMissing, StoreError
from schemas.messages.batch import BatchRequest, BatchResult
from schemas.messages.partition import Onward, Opened, OpenRequest, PartitionResult, PublishRequest


@dataclass
class OpeningActivities:
    """The activity `open`, with those whose work it goes on to do."""

    jobs: Jobs
    partitions: PartitionActivities
    batches: BatchActivities

    def all(self) -> list[Callable[..., Any]]:
        return [self.open]

    @activity.defn
    @activity_boundary
    async def open(self, request: OpenRequest) -> Opened:
        """Fix the base and the batches of a partition, and join its journal; `onward`: enrich and publish it."""
        store = self.jobs.store(request.ref)
        if not request.onward:
            return await self.partitions.opened(request, store)
        with nullcontext() if store.is_remote else short_work():
            return await self._begun(request, store)

    async def _begun(self, request: OpenRequest, store: Store) -> Opened:
        """Open a small partition, and do with it what can be done at once. Raises TandemError."""
        info = activity.info()
        if info.attempt > 1 and (before := await asyncio.to_thread(_published_before, store, request)) is not None:
            return before
        folder = ids.staging_folder(request.partition, info.workflow_run_id or "")
        held = HeldStore(store, folder, first=info.attempt == 1)
        try:
            opened = await self.partitions.opened(request, held)
            if opened.up_to_date:
                return opened
            onward = await self._onward(request, opened, held) if opened.batches == 1 else None
        except Exception:
            with suppress(StoreError):  # counts and rejects of a partition that was refused, for `close`
                await asyncio.to_thread(held.put_down)
            raise
        if onward is None or onward.published is None:
            await asyncio.to_thread(held.put_down)
        return opened.model_copy(update={"onward": onward})

    async def _onward(self, request: OpenRequest, opened: Opened, held: HeldStore) -> Onward:
        """Enrich the batch, and publish the partition if nothing is left to do. Raises TandemError."""
        batch = BatchRequest(
            ref=request.ref, plan=request.plan, partition=request.partition, opened=opened.opened, batch=0,
            waves=request.waves,
        )  # fmt: skip
        with log_context.of_batch(0):
            result = await self.batches.enriched(batch, held)
        if result.state != "done" or result.parked or 0 < result.rows <= result.rejected:
            return Onward(batch=result)  # what all rows met may be about to stop the run, which then rejects none
        began = time.monotonic()
        published = await self._published(request, opened, result, await self._publishing_store(request, held))
        return Onward(batch=result, published=published, publish_s=time.monotonic() - began)

    async def _published(
        self, request: OpenRequest, opened: Opened, batch: BatchResult, store: Store
    ) -> PartitionResult | None:
        """Publish. A publication that has begun runs to its end, also when cancelled, so that its outcome is known.
        None: another run has committed other content."""
        publish = _publish_request(request, opened.opened, batch.receipt)
        task = asyncio.create_task(self.partitions.published(publish, store))
        try:
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                if task.cancelled():
                    raise
                return await task
        except CommitConflict:
            return None

    async def _publishing_store(self, request: OpenRequest, held: HeldStore) -> Store:
        """Return the store to publish from: writers of a table format reach past ours."""
        job, _, _ = await self.jobs.of(request.ref, request.plan)
        if job.spec.sink.format == "parquet":
            return held
        await asyncio.to_thread(held.put_down)
        return held.below


def _publish_request(request: OpenRequest, opened: str, *receipts: str) -> PublishRequest:
    return PublishRequest(
        ref=request.ref, plan=request.plan, partition=request.partition, opened=opened, receipts=receipts
    )


def _published_before(store: Store, request: OpenRequest) -> Opened | None:
    """Return what an earlier attempt has published, whose result was lost."""
    try:
        published = published_before(store, _publish_request(request, ""))
    except ObjectMissing:
        return None
    rows, base = published.counts.rows_in, (published.generation or 1) - 1
    onward = Onward(batch=BatchResult(state="done", rows=rows), published=published)
    return Opened(opened="", base=base, batches=1, rows=rows, onward=onward)
