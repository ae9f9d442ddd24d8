"""As many batches are at work in a process as their rows, and their bytes, leave room for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pipeline.activities import batch
from pipeline.enrichment.attempt import BatchAttempt
from pipeline.enrichment.batch import enrich_batch
from schemas.messages.batch import BatchRequest, BatchResult
from tests.pipeline.activities.test_opening import PARTITION, ROWS, Work

BATCH_ROWS = 2


@pytest.fixture
async def most_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that runs all batches of a partition side by side, and returns the most that were at work at once."""
    work = Work(tmp_path, limits={"batch_rows": BATCH_ROWS})
    at_work: list[int] = []
    running = set[int]()

    async def counted(attempt: BatchAttempt, context: Any) -> Any:
        assert attempt.batch.rows == BATCH_ROWS
        running.add(attempt.number)
        at_work.append(len(running))
        try:
            await asyncio.sleep(0.01)
            return await enrich_batch(attempt, context)
        finally:
            running.discard(attempt.number)

    monkeypatch.setattr(batch, "enrich_batch", counted)

    async def run(rows: int, room: int | None = None) -> int:
        monkeypatch.setattr(batch, "_RUNNING_ROWS", rows)
        monkeypatch.setattr(batch, "_TIMES_IN_FLIGHT", 0)
        batches = work.activities.batch
        if room is not None:
            batches._memory.batches.resize(room)
        request = await work.planned()
        opened = await work.open(request.model_copy(update={"onward": False}))

        async def one(number: int) -> BatchResult:
            asked = BatchRequest(
                ref=work.ref, plan=request.plan, partition=PARTITION, opened=opened.opened, batch=number,
            )  # fmt: skip
            return await work.environment().run(batches.enrich_batch, asked)

        results = await asyncio.gather(*(one(number) for number in range(ROWS // BATCH_ROWS)))
        assert sum(result.rows for result in results) == ROWS
        return max(at_work)

    return run


@pytest.mark.parametrize(("rows", "most"), [(6, 3), (0, 2), (100, 6)])
async def test_a_run_has_room_for_rows_and_always_for_two_batches(most_at_once: Any, rows: int, most: int) -> None:
    assert await most_at_once(rows) == most


async def test_batches_whose_tables_find_no_room_work_one_after_the_other(most_at_once: Any) -> None:
    assert await most_at_once(100, room=1) == 1
