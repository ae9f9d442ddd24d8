"""The limiter's workflow on a real server, asked by real workers' leases."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer

from pipeline.limits.leases import Leases
from pipeline.workflows.limits.limiter import LimiterWorkflow
from schemas import ids
from schemas.messages.limits import LeaseRequest, PerMinute
from stages.limits.limiter import Limiters, Rates
from tests.harness.sandbox import sandbox
from tests.harness.servers import TemporalServer

EVENTS = 5_000


@pytest.fixture
async def client(temporal_server: TemporalServer) -> Client:
    return await Client.connect(temporal_server.address, data_converter=pydantic_data_converter)


async def _ended(handle: WorkflowHandle[None, None]) -> WorkflowExecutionStatus | None:
    for _ in range(200):
        status = (await handle.describe()).status
        if status != WorkflowExecutionStatus.RUNNING:
            return status
        await asyncio.sleep(0.1)
    return WorkflowExecutionStatus.RUNNING


async def test_a_share_is_asked_for_when_somebody_calls_and_given_back_at_the_end(client: Client) -> None:
    key = ids.limit_key(f"openai:{uuid.uuid4().hex}", "", "sk-secret")
    limiters = Limiters()
    leases = asyncio.create_task(Leases(client, limiters, sandbox()).run())
    limiter = limiters.of(key, 8, Rates(6000))
    for _ in range(20):
        async with limiter.call():
            pass
    ((_, place, fleet),) = limiters.shared()
    assert fleet.part(place.limit, asyncio.get_running_loop().time()) == place.limit
    handle = client.get_workflow_handle(ids.limiter_workflow_id(key))
    assert (await handle.describe()).status == WorkflowExecutionStatus.RUNNING
    leases.cancel()
    await asyncio.gather(leases, return_exceptions=True)
    assert await _ended(handle) == WorkflowExecutionStatus.COMPLETED
    history = await handle.fetch_history()
    assert "sk-secret" not in history.to_json()
    replayer = Replayer(workflows=[LimiterWorkflow], workflow_runner=sandbox(), data_converter=pydantic_data_converter)
    await replayer.replay_workflow(history)


async def test_no_share_is_asked_for_and_nothing_served_without_a_limit(client: Client) -> None:
    limiters = Limiters()
    leases = asyncio.create_task(Leases(client, limiters, sandbox()).run())
    async with limiters.of("k", 8).call():
        pass
    await asyncio.sleep(0.2)
    assert limiters.shared() == []
    leases.cancel()
    await asyncio.gather(leases, return_exceptions=True)


@pytest.mark.prove
async def test_hundreds_of_wishes_take_executions_of_bounded_history_and_lose_no_share(client: Client) -> None:
    key = ids.limit_key(f"openai:{uuid.uuid4().hex}", "", "")
    member = Leases(client, Limiters(), sandbox())
    workers = [f"worker-{at}" for at in range(5)]
    numbers = Counter[str]()

    async def asks(worker: str) -> None:
        limit = PerMinute(requests=600)
        while numbers[worker] < 130:
            try:
                lease = await member._update(key, LeaseRequest(worker=worker, limit=limit, hungry=True))
            except Exception:  # between two executions
                await asyncio.sleep(0.05)
                continue
            assert lease.share.requests is not None
            assert lease.share.requests <= 600
            numbers[worker] += 1

    async with member._serving():
        await asyncio.gather(*map(asks, workers))
        handle = client.get_workflow_handle(ids.limiter_workflow_id(key))
        described = await handle.describe()
        first = described.raw_description.workflow_execution_info.first_run_id
        assert described.run_id != first  # it went on as a new one
        assert described.history_length < EVENTS
        for worker in workers:
            await member._update(key, LeaseRequest(worker=worker, leaving=True))
        assert await _ended(handle) == WorkflowExecutionStatus.COMPLETED
