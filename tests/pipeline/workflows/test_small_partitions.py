"""A small partition is one activity in its history; whatever that leaves undone, its workflow does."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from temporalio.testing import WorkflowEnvironment

from schemas.manifest import Counts, Usage
from schemas.messages.batch import BatchResult, Spent
from schemas.messages.partition import CloseRequest, Onward, Opened, OpenRequest, PartitionResult
from schemas.messages.run import PlannedPartition
from tests.pipeline.fakes import ROWS, Fakes, at_work, beat_until, ended, planned, skipping_time, until

A = "day=2026-11-01"
DONE = BatchResult(state="done", receipt="of-open", rows=ROWS, spent=Spent(calls=ROWS, cost_usd=0.5))


@pytest.fixture
async def skipping() -> AsyncIterator[WorkflowEnvironment]:
    async with skipping_time() as env:
        yield env


def opened(onward: Onward | None, base: int = 0) -> Opened:
    return Opened(opened="open/a", base=base, batches=1, rows=ROWS, onward=onward)


def published() -> PartitionResult:
    counts = Counts(rows_in=ROWS, ok=ROWS, out=ROWS)
    return PartitionResult(partition=A, outcome="published", generation=1, counts=counts, usage=Usage(calls=ROWS))


async def cancelled_while_it_opens(skipping: WorkflowEnvironment, fakes: Fakes) -> None:
    async with at_work(skipping.client, fakes) as bench:
        handle = await bench.start()
        await until(lambda: bool(fakes.of("open")))
        await handle.cancel()
        assert (await ended(handle)).state == "cancelled"


async def test_all_of_it_is_one_activity(skipping: WorkflowEnvironment) -> None:
    async def all_of_it(request: OpenRequest, nth: int) -> Opened:
        assert request.onward
        return opened(Onward(batch=DONE, published=published()))

    fakes = Fakes([planned(A)], on={"open": all_of_it})
    async with at_work(skipping.client, fakes) as bench:
        result = await ended(await bench.start())
    assert (result.state, result.totals.published, result.totals.counts.ok) == ("completed", 1, ROWS)
    assert not fakes.of("enrich_batch")
    assert not fakes.of("publish")


async def test_a_large_one_is_only_opened(skipping: WorkflowEnvironment) -> None:
    large = PlannedPartition(key=A, run=True, rows=101)
    fakes = Fakes([[large]], batches=1)
    async with at_work(skipping.client, fakes) as bench:
        await ended(await bench.start())
    assert [request.onward for request in fakes.of("open")] == [False]
    assert len(fakes.of("publish")) == 1


async def test_a_batch_that_waited_is_run_again(skipping: WorkflowEnvironment) -> None:
    async def waits(request: OpenRequest, nth: int) -> Opened:
        until = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1)
        return opened(Onward(batch=BatchResult(state="waiting", until=until, reason="the provider is down")))

    fakes = Fakes([planned(A)], batches=1, on={"open": waits})
    async with at_work(skipping.client, fakes) as bench:
        result = await ended(await bench.start())
    assert result.state == "completed"
    assert len(fakes.of("enrich_batch")) == 1
    assert [request.receipts for request in fakes.of("publish")] == [("receipt-0",)]


async def test_what_is_done_is_published_by_its_receipt(skipping: WorkflowEnvironment) -> None:
    """After a commit that was lost to another run, or where a person has to answer first."""

    async def unpublished(request: OpenRequest, nth: int) -> Opened:
        return opened(Onward(batch=DONE))

    fakes = Fakes([planned(A)], on={"open": unpublished})
    async with at_work(skipping.client, fakes) as bench:
        await ended(await bench.start())
    assert not fakes.of("enrich_batch")
    assert [request.receipts for request in fakes.of("publish")] == [("of-open",)]


async def test_a_cancel_that_comes_while_it_is_handed_back_ends_it(skipping: WorkflowEnvironment) -> None:
    """The activity has a result although it was cancelled: the workflow must not take the cancel for done."""
    going = asyncio.Event()

    async def handed_back(request: OpenRequest, nth: int) -> Opened:
        with suppress(asyncio.CancelledError):
            await beat_until(going)
        return opened(Onward(batch=BatchResult(state="handed_back")), base=3)

    fakes = Fakes([planned(A)], on={"open": handed_back})
    await cancelled_while_it_opens(skipping, fakes)
    assert not fakes.of("enrich_batch")
    assert [(bool(closed.fence), closed.base) for closed in fakes.of("close")] == [(True, 3)]


async def test_a_cancel_waits_for_it_and_fences_whatever_it_built_on(skipping: WorkflowEnvironment) -> None:
    async def never(request: OpenRequest, nth: int) -> None:
        await beat_until(asyncio.Event())

    fakes = Fakes([planned(A)], on={"open": never})
    await cancelled_while_it_opens(skipping, fakes)
    (closed,) = fakes.of("close")
    assert isinstance(closed, CloseRequest)
    assert closed.fence
    assert closed.base == -1
