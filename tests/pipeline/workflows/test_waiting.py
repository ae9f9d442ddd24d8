"""`pending: wait`: a partition waits for people, for weeks if need be, and keeps nobody else from being worked on."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from pipeline.workflows.run import RunWorkflow
from schemas import ids
from schemas.messages.base import Concurrency
from schemas.messages.batch import BatchRequest, BatchResult
from schemas.messages.partition import Answers, AnswersRequest
from tests.harness.servers import TemporalServer
from tests.pipeline.fakes import ROWS, Fakes, at_work, ended, planned, skipping_time, until

A, B, C = "day=2026-11-01", "day=2026-11-02", "day=2026-11-03"


@pytest.fixture
async def skipping() -> AsyncIterator[WorkflowEnvironment]:
    async with skipping_time() as env:
        yield env


@pytest.fixture
async def client(temporal_server: TemporalServer) -> Client:
    return await Client.connect(temporal_server.address, data_converter=pydantic_data_converter)


async def asks(request: BatchRequest, nth: int) -> BatchResult:
    """The second batch parks three rows until it is given out again."""
    parked = 3 if request.batch == 1 and nth == 1 else 0
    return BatchResult(state="done", receipt=f"receipt-{request.batch}-{nth}", rows=ROWS // 2, parked=parked)


async def test_a_month_of_waiting_takes_few_events_and_only_the_batch_that_asks_is_done_again(
    skipping: WorkflowEnvironment,
) -> None:
    begun = await skipping.get_current_time()

    async def people(request: AnswersRequest, nth: int) -> Answers:
        over = await skipping.get_current_time() - begun > dt.timedelta(days=30)
        return Answers(missing=0 if over else 2, given=1)

    fakes = Fakes([planned(A)], on={"enrich_batch": asks, "answers": people})
    async with at_work(skipping.client, fakes) as bench:
        result = await ended(await bench.start(), 60)
        workflow = ids.partition_workflow_id(bench.ref.pipeline, bench.ref.sink, A)
        events = await bench.events(workflow)
    assert result.state == "completed"
    assert len(fakes.of("answers")) < 300
    assert events.total() < 3_500
    tells = [said.tell for said in fakes.of("answers")]
    assert (tells[0], tells[-1]) == (True, False)
    done = sorted((said.batch, said.answered) for said in fakes.of("enrich_batch"))
    assert done == [(0, False), (1, False), (1, True)]
    assert [said.receipts for said in fakes.of("publish")] == [("receipt-0-1", "receipt-1-2")]


async def test_a_partition_that_waits_takes_no_room_and_goes_on_at_once_when_it_is_told(client: Client) -> None:
    answered = asyncio.Event()

    async def people(request: AnswersRequest, nth: int) -> Answers:
        return Answers(missing=0 if answered.is_set() else 3, given=0)

    fakes = Fakes(
        [planned(A, B, C)], windows=Concurrency(partitions=1), on={f"enrich_batch:{A}": asks, "answers": people}
    )
    async with at_work(client, fakes) as bench:
        run = await bench.start()
        await until(lambda: bool(fakes.of("publish", B) and fakes.of("publish", C)))
        async with asyncio.timeout(20):
            while (told := await run.query(RunWorkflow.progress)).running != (A,):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert "3 answers of people missing" in told.detail
        child = client.get_workflow_handle(ids.partition_workflow_id(bench.ref.pipeline, bench.ref.sink, A))
        asked = len(fakes.of("answers"))
        answered.set()
        await child.signal("answered")
        result = await ended(run)
    assert len(fakes.of("answers")) == asked + 1
    assert result.totals.published == 3


async def test_a_run_that_is_cancelled_while_it_waits_is_fenced(client: Client) -> None:
    async def people(request: AnswersRequest, nth: int) -> Answers:
        return Answers(missing=3, given=0)

    fakes = Fakes([planned(A)], on={"enrich_batch": asks, "answers": people})
    async with at_work(client, fakes) as bench:
        run = await bench.start()
        await until(lambda: bool(fakes.of("answers")))
        await run.cancel()
        result = await ended(run)
    assert result.state == "cancelled"
    assert [bool(said.fence) for said in fakes.of("close")] == [True]
    assert fakes.of("publish") == []
