"""Live control, in the real sandbox on a real server: limits, pauses, and partitions that another run holds."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from temporalio.client import Client, WorkflowUpdateFailedError
from temporalio.contrib.pydantic import pydantic_data_converter

from pipeline.limits.live_limits import LiveLimits, load_limits, save_limits
from pipeline.stores import open_store
from pipeline.workflows.activity_calls import cause_of
from pipeline.workflows.run import PAUSED, RunWorkflow
from schemas.messages.base import Concurrency
from schemas.messages.batch import BatchRequest
from schemas.messages.run import SetLimits
from stages.limits.limiter import Limiters
from tests.harness.servers import TemporalServer
from tests.pipeline.fakes import Fakes, at_work, beat_until, ended, planned, until

A, B, C = "day=2026-11-01", "day=2026-11-02", "day=2026-11-03"


@pytest.fixture
async def client(temporal_server: TemporalServer) -> Client:
    return await Client.connect(temporal_server.address, data_converter=pydantic_data_converter)


# Limits -------------------------------------------------------------------------------------------------------------


async def test_a_live_run_takes_more_partitions_at_once_when_it_is_told_to(client: Client) -> None:
    go = asyncio.Event()

    async def slow(request: BatchRequest, nth: int) -> None:
        await beat_until(go)

    keys = [f"block={n:06d}" for n in range(5)]
    fakes = Fakes([planned(*keys)], batches=1, windows=Concurrency(partitions=1), on={"enrich_batch": slow})
    async with at_work(client, fakes) as bench:
        run = await bench.start()
        await until(lambda: fakes.running["enrich_batch"] == 1)
        await run.execute_update(RunWorkflow.set_limits, SetLimits(partitions=3, rows_in_flight=7))
        await until(lambda: fakes.running["enrich_batch"] == 3)
        go.set()
        assert (await ended(run)).totals.published == 5
    assert fakes.most["enrich_batch"] == 3
    (asked,) = fakes.of("set_limits")
    assert asked.limits == SetLimits(partitions=3, rows_in_flight=7), "written where the workers look"


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        (SetLimits(), "No limit was given. Give --max-active N, --rows-in-flight N or --max-cost USD."),
        (SetLimits(partitions=0), "--max-active 0: not between 1 and 500."),
        (SetLimits(rows_in_flight=10_001), "--rows-in-flight 10001: not between 1 and 10,000."),
    ],
)
async def test_a_limit_that_cannot_be_is_refused_with_a_sentence(
    client: Client, limits: SetLimits, sentence: str
) -> None:
    go = asyncio.Event()

    async def slow(request: BatchRequest, nth: int) -> None:
        await beat_until(go)

    fakes = Fakes([planned(A)], on={"enrich_batch": slow})
    async with at_work(client, fakes) as bench:
        run = await bench.start()
        with pytest.raises(WorkflowUpdateFailedError) as refused:
            await run.execute_update(RunWorkflow.set_limits, limits)
        assert refused.value.cause is not None
        assert cause_of(refused.value.cause) == ("UsageError", sentence)
        go.set()
        assert (await ended(run)).state == "completed"
    assert not fakes.of("set_limits")


async def test_workers_hear_of_limits_while_their_batches_are_at_work(tmp_path: Path) -> None:
    store, controls = open_store(str(tmp_path)), LiveLimits()
    told: asyncio.Queue[SetLimits] = asyncio.Queue()
    save_limits(store, "run-1", SetLimits(partitions=2))
    async with (
        controls.followed(store, "run-1", "plan", told.put),
        controls.followed(store, "run-1", "plan", told.put),
    ):
        assert await asyncio.wait_for(told.get(), 10) == SetLimits(partitions=2)
        save_limits(store, "run-1", SetLimits(rows_in_flight=5))
        assert await asyncio.wait_for(told.get(), 10) == SetLimits(partitions=2, rows_in_flight=5)
    assert told.empty(), "two batches of a run look once"
    assert load_limits(store, "run-2") == SetLimits()


async def test_a_limit_holds_from_its_change_on_for_the_job_alone() -> None:
    process = Limiters()
    mine, other = process.apart(), process.apart()
    limiter, neighbour = mine.of("model", 1), other.of("elsewhere", 9)
    await limiter.take_row()
    await limiter.take_row()
    waiting = asyncio.create_task(limiter.take_row())
    await asyncio.sleep(0)
    mine.resize(8)
    assert not waiting.done(), "whoever waits under the old limit is let in under it"
    limiter.leave_row()
    await asyncio.wait_for(waiting, 5)
    limiter.leave_row()
    limiter.leave_row()
    for _ in range(10):
        await asyncio.wait_for(limiter.take_row(), 5)
    assert (limiter.rows_in_flight, neighbour.rows_in_flight) == (8, 9)


# Pauses -------------------------------------------------------------------------------------------------------------


async def test_a_pause_is_seen_without_asking_a_worker_and_ends_with_a_cancel_too(client: Client) -> None:
    fakes = Fakes([planned(A, B, C)], windows=Concurrency(partitions=1))

    async def first(request: BatchRequest, nth: int) -> None:
        await run.signal(RunWorkflow.pause, "lunch")
        await asyncio.sleep(0.3)

    fakes.on[f"enrich_batch:{A}"] = first
    async with at_work(client, fakes) as bench:
        run = await bench.start()
        await until(lambda: bool(fakes.of("enrich_batch", A)))
        async with asyncio.timeout(10):
            while (await (await run.describe()).memo()).get(PAUSED) != "lunch":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await run.cancel()
        result = await ended(run)
    assert result.state == "cancelled"
    assert not fakes.of("open", B)


# Partitions that another run holds ----------------------------------------------------------------------------------


async def test_a_run_that_waits_goes_on_as_soon_as_the_holder_is_done(client: Client) -> None:
    go = asyncio.Event()

    async def slow(request: BatchRequest, nth: int) -> None:
        await beat_until(go)

    fakes = Fakes([planned(A)], batches=1, on={"enrich_batch": slow})
    async with at_work(client, fakes) as bench:
        holder = await bench.partition(A)
        await until(lambda: fakes.running["enrich_batch"] == 1)
        run = await bench.start()
        await until(lambda: bool(fakes.of("holder")))
        async with asyncio.timeout(10):
            while (await run.query(RunWorkflow.progress)).detail != f"{A} is held by other":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        go.set()
        assert (await ended(holder)).outcome == "published"
        assert (await ended(run, 20)).totals.published == 1, "long before it would have looked again by itself"
        events = await bench.events(run.id)
    assert events["EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED"] == 1
    assert len(fakes.of("open", A)) == 2, "it decided again whether anything was left to do"


async def test_a_run_that_does_not_wait_reports_who_holds_a_partition(client: Client) -> None:
    go = asyncio.Event()

    async def slow(request: BatchRequest, nth: int) -> None:
        if request.partition == A:
            await beat_until(go)

    fakes = Fakes([planned(A, B)], batches=1, on={"enrich_batch": slow})
    async with at_work(client, fakes) as bench:
        holder = await bench.partition(A)
        await until(lambda: fakes.running["enrich_batch"] == 1)
        result = await ended(await bench.start(waits=False))
        assert (result.state, result.totals.published, result.totals.not_run) == ("completed", 1, 1)
        (close,) = fakes.of("close")
        assert (close.partition, close.outcome, close.message, close.fence) == (A, "not_run", "held by other", "")
        go.set()
        assert (await ended(holder)).outcome == "published"
