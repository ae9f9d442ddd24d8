"""Runs that share a task queue take turns at it: a schedule's and a backfill's, whichever came first."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter

from pipeline.workflows.schedule import ScheduledWorkflow
from schemas import ids
from schemas.messages.base import Concurrency
from schemas.messages.batch import BatchRequest
from schemas.messages.run import Page, PageRequest
from schemas.messages.schedule import FiringDecision, FiringRequest, ScheduledInput, ScheduleTerms
from tests.harness.servers import TemporalServer
from tests.pipeline.fakes import Bench, Fakes, at_work, ended, planned, until

LARGE = planned(*(f"block={n:06d}" for n in range(96)))
SMALL = planned("day=2026-11-01", "day=2026-11-02")


async def _begin(bench: Bench, run: str, scheduled: bool) -> WorkflowHandle[Any, Any]:
    if not scheduled:
        return await bench.start(run)
    ref = bench.ref.model_copy(update={"run": ""})
    return await bench.client.start_workflow(
        ScheduledWorkflow.run,
        ScheduledInput(ref=ref, spec="spec", base="/", task_queue=bench.queue, terms=ScheduleTerms(cron="@daily")),
        id=ids.scheduled_workflow_id(ref.pipeline, ref.sink),
        task_queue=bench.queue,
    )


@pytest.mark.parametrize("scheduled", ["small", "large"])
async def test_a_small_run_does_not_wait_for_all_that_a_large_one_has_queued(
    temporal_server: TemporalServer, scheduled: str
) -> None:
    """Two activities at once; the large run has up to 24 queued at any time."""

    async def brief(request: BatchRequest, nth: int) -> None:
        await asyncio.sleep(0.02)

    async def page(request: PageRequest, nth: int) -> Page:
        return Page(partitions=tuple(LARGE if request.ref.run == "large" else SMALL))

    async def ask(request: FiringRequest, nth: int) -> FiringDecision:
        return FiringDecision(run=scheduled)

    fakes = Fakes(
        [LARGE], windows=Concurrency(partitions=24), on={"enrich_batch": brief, "read_page": page, "ask": ask}
    )  # fmt: skip
    client = await Client.connect(temporal_server.address, data_converter=pydantic_data_converter)
    async with at_work(client, fakes, max_concurrent_activities=2) as bench:
        large = await _begin(bench, "large", scheduled == "large")
        await until(lambda: len(fakes.of("open")) >= 4)
        await ended(await _begin(bench, "small", scheduled == "small"))
        published = [request.partition for request in fakes.of("publish")]
        assert {partition.key for partition in SMALL} <= set(published)
        assert len(published) < len(SMALL) + len(LARGE) / 2
        await ended(large)
    assert len(fakes.of("publish")) == len(SMALL) + len(LARGE)
