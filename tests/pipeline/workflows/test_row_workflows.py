"""Rows as workflows of their own: step by step, a window of them, and none at work when their partition has ended."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from pipeline.planning import batches
from schemas.errors import SpecError
from schemas.messages.batch import BatchRequest, BatchResult, RowInput, RowsOfBatch, StepResult
from tests.harness.servers import TemporalServer
from tests.pipeline.fakes import Fakes, at_work, beat_until, ended, failed, planned, until

A = "day=2026-11-01"
ROWS = tuple(f"row-{at}" for at in range(6))


@pytest.fixture
async def client(temporal_server: TemporalServer) -> Client:
    return await Client.connect(temporal_server.address, data_converter=pydantic_data_converter)


async def by_row(request: BatchRequest, nth: int) -> BatchResult | None:
    """The only batch has rows that are to be run one by one, and is done once they are."""
    if nth > 1:
        return None
    return BatchResult(state="rows", by_row=RowsOfBatch(stage="slow", rows="rows.parquet", ids=ROWS))


async def test_each_row_is_taken_step_by_step_and_the_batch_goes_on_after_the_last(client: Client) -> None:
    seen: Counter[str] = Counter()

    async def step(request: RowInput, nth: int) -> StepResult:
        seen[request.id] += 1
        if request.id == "row-2" and seen[request.id] == 2:
            return StepResult(state="handed_back")
        return StepResult(state="more" if seen[request.id] < 3 else "done")

    fakes = Fakes([planned(A)], batches=1, on={"enrich_batch": by_row, "step_row": step})
    async with at_work(client, fakes) as bench:
        result = await ended(await bench.start())
    assert result.state == "completed"
    assert seen == dict.fromkeys(ROWS, 3)
    names = [name for name, _ in fakes.calls if name in ("enrich_batch", "step_row", "publish")]
    assert names == ["enrich_batch", *["step_row"] * 18, "enrich_batch", "publish"]
    assert [said.row for said in fakes.of("step_row") if said.id == "row-4"] == [4, 4, 4]


async def test_a_row_that_fails_fails_its_partition_with_its_own_error_and_stops_the_others(client: Client) -> None:
    never = asyncio.Event()

    async def step(request: RowInput, nth: int) -> StepResult | None:
        if request.id == "row-0":
            await until(lambda: fakes.running["step_row"] > 1)
            raise failed("FatalModelError", "the key is refused")
        await beat_until(never)
        return None

    fakes = Fakes([planned(A)], batches=1, on={"enrich_batch": by_row, "step_row": step})
    async with at_work(client, fakes) as bench:
        result = await ended(await bench.start())
        assert fakes.running["step_row"] == 0
        assert all("/row/" not in workflow for workflow in await bench.still_open())
    assert result.state == "failed"
    assert result.stop is not None
    assert (result.stop.error, result.stop.message) == ("FatalModelError", "the key is refused")


async def test_a_run_that_is_cancelled_leaves_no_row_at_work(client: Client) -> None:
    never = asyncio.Event()

    async def step(request: RowInput, nth: int) -> None:
        await beat_until(never)

    fakes = Fakes([planned(A)], batches=1, on={"enrich_batch": by_row, "step_row": step})
    async with at_work(client, fakes) as bench:
        run = await bench.start()
        await until(lambda: fakes.running["step_row"] == len(ROWS))
        await run.cancel()
        result = await ended(run)
        assert fakes.running["step_row"] == 0
        assert all("/row/" not in workflow for workflow in await bench.still_open())
    assert result.state == "cancelled"
    assert [bool(said.fence) for said in fakes.of("close")] == [True]


def test_more_rows_than_can_be_workflows_of_one_partition_are_refused() -> None:
    batches.refuse_many_rows(A, batches.MAX_ROW_WORKFLOWS)
    with pytest.raises(SpecError, match=r"1,001 rows, and a stage has placement: node"):
        batches.refuse_many_rows(A, batches.MAX_ROW_WORKFLOWS + 1)
