"""A worker that is killed says nothing of the work: attempts that its deaths use up begin anew, some times."""

from __future__ import annotations

from schemas.messages.batch import BatchRequest
from tests.pipeline.fakes import Fakes, at_work, ended, failed, planned, skipping_time

DAY = "day=2026-11-01"


def losing(times: int) -> Fakes:
    """The first `times` attempts of each batch end with the death of their worker."""

    async def lost(request: BatchRequest, nth: int) -> None:
        if nth <= times:
            raise failed("WorkerLost", "its worker was killed")

    return Fakes([planned(DAY)], batches=1, on={"enrich_batch": lost})


async def test_a_batch_outlives_workers_that_are_killed() -> None:
    fakes = losing(3)
    async with skipping_time() as skipping, at_work(skipping.client, fakes) as bench:
        result = await ended(await bench.start())
    assert result.state == "completed"
    assert len(fakes.of("enrich_batch")) == 4


async def test_not_for_ever() -> None:
    fakes = losing(100)
    async with skipping_time() as skipping, at_work(skipping.client, fakes) as bench:
        result = await ended(await bench.start())
    assert (result.state, len(fakes.of("enrich_batch"))) == ("failed", 4)
