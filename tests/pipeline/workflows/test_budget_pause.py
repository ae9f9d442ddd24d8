"""What a run does whose budget has no room: nothing new, one reckoning once nothing is in flight, then it waits."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from pipeline.workflows.run import RunWorkflow
from schemas.messages.base import Concurrency
from schemas.messages.batch import BatchRequest, BatchResult
from schemas.messages.run import BudgetCheck, BudgetVerdict, Progress, RunResult
from tests.harness.servers import TemporalServer
from tests.pipeline.fakes import Fakes, at_work, beat_until, ended, planned, skipping_time, until

A, B, C = "day=2026-11-01", "day=2026-11-02", "day=2026-11-03"
SHORT = BatchResult(state="short", needed=(700, 7))


@pytest.fixture
async def skipping() -> AsyncIterator[WorkflowEnvironment]:
    async with skipping_time() as env:
        yield env


@pytest.fixture
async def client(temporal_server: TemporalServer) -> Client:
    return await Client.connect(temporal_server.address, data_converter=pydantic_data_converter)


async def once_short(request: BatchRequest, nth: int) -> BatchResult | None:
    return SHORT if nth == 1 else None


async def broke(run: WorkflowHandle[RunWorkflow, RunResult]) -> Progress:
    async with asyncio.timeout(20):
        while True:
            said = await run.query(RunWorkflow.progress)
            if said.stop is not None:
                return said
            await asyncio.sleep(0.02)


async def test_a_run_without_money_pauses_says_so_and_goes_on_where_it_was(client: Client) -> None:
    fakes = Fakes([planned(A, B, C)], batches=2, windows=Concurrency(partitions=2), on={"enrich_batch": once_short})
    async with at_work(client, fakes) as bench:
        run = await bench.start()
        said = await broke(run)
        assert (said.state, said.detail) == ("paused", "no money")
        assert said.stop is not None
        assert said.stop.error == "BudgetReached"
        assert len(fakes.of("enrich_batch")) == 4
        assert not fakes.of("open", C), "nothing new is begun"
        await run.signal(RunWorkflow.resume)
        said = await broke(run)  # C has to ask as well
        await run.signal(RunWorkflow.resume)
        result = await ended(run)
    assert (result.state, result.totals.published) == ("completed", 3)
    assert len(fakes.of("enrich_batch")) == 12, "a batch that is done is not done again"
    assert len(fakes.of("open")) == 3


async def test_it_is_reckoned_only_once_nothing_is_in_flight(client: Client) -> None:
    go = asyncio.Event()
    at_work_then: list[int] = []

    async def batch(request: BatchRequest, nth: int) -> BatchResult | None:
        if request.partition == A:
            await beat_until(go)
            return None
        return SHORT.model_copy(update={"needed": (500 + request.batch, 5)}) if nth == 1 else None

    async def reckon(request: BudgetCheck, nth: int) -> BudgetVerdict:
        at_work_then.append(fakes.running["enrich_batch"])
        return BudgetVerdict(go_on=True)

    fakes = Fakes([planned(A, B)], batches=2, on={"enrich_batch": batch, "reckon": reckon})
    async with at_work(client, fakes) as bench:
        run = await bench.start()
        await until(lambda: len(fakes.of("enrich_batch", B)) == 2)
        await asyncio.sleep(0.5)
        assert not fakes.of("reckon")
        go.set()
        assert (await ended(run)).state == "completed"
    assert at_work_then == [0]
    assert [(said.nanos, said.tokens) for said in fakes.of("reckon")] == [(500, 5)]


async def test_a_partition_begins_no_batch_while_one_is_short(client: Client) -> None:
    async def first_is_short(request: BatchRequest, nth: int) -> BatchResult | None:
        return SHORT if request.batch == 0 and nth == 1 else None

    fakes = Fakes([planned(A)], batches=5, windows=Concurrency(batches=1), on={"enrich_batch": first_is_short})
    async with at_work(client, fakes) as bench:
        run = await bench.start()
        await broke(run)
        assert [said.batch for said in fakes.of("enrich_batch")] == [0]
        await run.signal(RunWorkflow.resume)
        assert (await ended(run)).totals.published == 1


async def test_a_new_day_needs_nobody(skipping: WorkflowEnvironment) -> None:
    async def reckon(request: BudgetCheck, nth: int) -> BudgetVerdict:
        return BudgetVerdict(
            go_on=False, message="a day", until=await skipping.get_current_time() + dt.timedelta(hours=9)
        )

    fakes = Fakes([planned(A)], on={"enrich_batch": once_short, "reckon": reckon})
    async with at_work(skipping.client, fakes) as bench:
        assert (await ended(await bench.start())).state == "completed"
    times = [when for name, when in fakes.at if name == "enrich_batch"]
    assert max(times) - min(times) >= dt.timedelta(hours=9)


async def test_a_reckoning_that_fails_pauses_too(client: Client) -> None:
    async def reckon(request: BudgetCheck, nth: int) -> Any:
        from tests.pipeline.fakes import failed

        raise failed("StoreRefused", "no access")

    fakes = Fakes([planned(A)], on={"enrich_batch": once_short, "reckon": reckon})
    async with at_work(client, fakes) as bench:
        run = await bench.start()
        assert "no access" in (await broke(run)).detail
        await run.signal(RunWorkflow.resume)
        assert (await ended(run)).state == "completed"


async def test_a_run_without_money_can_be_cancelled(client: Client) -> None:
    fakes = Fakes([planned(A, B)], windows=Concurrency(partitions=1), on={"enrich_batch": once_short})
    async with at_work(client, fakes) as bench:
        run = await bench.start()
        await broke(run)
        await run.cancel()
        result = await ended(run)
    assert (result.state, result.totals.cancelled, result.totals.not_run) == ("cancelled", 1, 1)
    assert [said.outcome for said in fakes.of("close")] == ["cancelled"]
