"""How a run goes about its partitions: newest first, a canary, a limit of failures. The workflow on a real server, with
activities that do nothing; the sample and the plan without one."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.testing import WorkflowEnvironment

from pipeline.planning import builder
from pipeline.planning.batches import sample
from pipeline.runs import plan_pages, requests
from schemas import ids
from schemas.errors import ChecksFailed
from schemas.manifest import Counts
from schemas.messages.base import Concurrency, RunRef
from schemas.messages.partition import OpenRequest, PartitionResult, PublishRequest
from schemas.messages.run import PlannedPartition, RunOptions
from schemas.plan import Decision, Selection
from tests.pipeline.fakes import Fakes, at_work, ended, failed, planned, skipping_time
from tests.pipeline.jobs import Bench, rows

KEYS = [f"day=2026-11-{day:02d}" for day in range(1, 9)]


@pytest.fixture
async def skipping() -> AsyncIterator[WorkflowEnvironment]:
    async with skipping_time() as env:
        yield env


async def broken(request: OpenRequest, nth: int) -> None:
    raise failed("InputChanged", "the source moved")


async def test_so_many_failures_stop_the_run(skipping: WorkflowEnvironment) -> None:
    fakes = Fakes([planned(*KEYS[:4]), planned(*KEYS[4:])], windows=Concurrency(partitions=1))
    fakes.on.update({f"open:{key}": broken for key in KEYS[1:]})
    async with at_work(skipping.client, fakes) as bench:
        result = await ended(await bench.start(course=RunOptions(max_failures=2)))
    assert result.stop is not None
    assert result.stop.error == "TooManyFailures"
    assert "2 of 8 partitions failed" in result.stop.message
    assert (result.totals.published, result.totals.failed, result.totals.not_run) == (1, 2, 5)


async def test_what_is_at_work_when_a_failure_ends_the_run_may_end(skipping: WorkflowEnvironment) -> None:
    over = asyncio.Event()

    async def slow(request: OpenRequest, nth: int) -> None:
        await over.wait()
        await asyncio.sleep(0.2)

    async def fails(request: OpenRequest, nth: int) -> None:
        over.set()
        raise failed("InputChanged", "the source moved")

    fakes = Fakes([planned(*KEYS)], windows=Concurrency(partitions=2))
    fakes.on.update({f"open:{KEYS[0]}": slow, f"open:{KEYS[1]}": fails})
    async with at_work(skipping.client, fakes) as bench:
        result = await ended(await bench.start(course=RunOptions(max_failures=1)))
    assert (result.totals.published, result.totals.failed, result.totals.not_run) == (1, 1, 6)


async def test_a_canary_goes_first_and_publishes_nothing(skipping: WorkflowEnvironment) -> None:
    canary = [PlannedPartition(key=key, run=True, rows=2) for key in KEYS[::3]]
    fakes = Fakes([planned(*KEYS)], canary=canary)
    async with at_work(skipping.client, fakes) as bench:
        result = await ended(await bench.start())
    assert result.state == "completed"
    assert result.totals.published == len(KEYS)
    asked: list[PublishRequest] = fakes.of("publish")
    assert {(said.partition, said.rehearsal) for said in asked[:3]} == {(key, True) for key in KEYS[::3]}
    assert sorted(said.partition for said in asked[3:] if not said.rehearsal) == KEYS
    limits = [said.limit for said in fakes.of("open") if said.partition == KEYS[0]]
    assert limits == [2, 10]


async def test_a_canary_of_rejects_ends_the_run_before_the_rest(skipping: WorkflowEnvironment) -> None:
    """One bad row of a partition is no verdict; the rate over the whole sample is."""

    async def rejected(request: PublishRequest, nth: int) -> PartitionResult:
        bad = request.partition != KEYS[0]
        counts = Counts(rows_in=1, rejected=1) if bad else Counts(rows_in=1, ok=1)
        return PartitionResult(partition=request.partition, outcome="not_run", counts=counts)

    canary = [PlannedPartition(key=key, run=True, rows=1) for key in KEYS[:3]]
    fakes = Fakes([planned(*KEYS)], canary=canary, on={"publish": rejected})
    async with at_work(skipping.client, fakes) as bench:
        result = await ended(await bench.start())
    assert result.state == "failed"
    assert result.stop is not None
    assert (result.stop.error, result.totals.published, result.totals.not_run) == ("CanaryFailed", 0, 8)
    assert "2 of the canary's 3 rows were rejected" in result.stop.message
    assert {said.partition for said in fakes.of("open")} == set(KEYS[:3])


async def test_a_canary_that_breaks_a_check_ends_the_run(skipping: WorkflowEnvironment) -> None:
    async def refused(request: PublishRequest, nth: int) -> None:
        raise failed("ChecksFailed", "check 'c': 1 row(s) break it.")

    canary = [PlannedPartition(key=key, run=True, rows=1) for key in KEYS[:2]]
    fakes = Fakes([planned(*KEYS)], canary=canary, on={"publish": refused})
    async with at_work(skipping.client, fakes) as bench:
        result = await ended(await bench.start())
    assert result.stop is not None
    assert result.stop.error == "CanaryFailed"
    assert "check 'c'" in result.stop.message


# Without Temporal ---------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(0, 60))
def test_a_sample_is_spread_and_no_more_than_asked(sizes: list[int], asked: int) -> None:
    decided = [Decision(partition=f"block={at:06d}", run=True, causes=(), rows=n) for at, n in enumerate(sizes)]
    found = sample(decided, asked)
    if not 0 < asked < sum(sizes):
        assert found == []
        return
    assert 0 < sum(d.rows for d in found) <= asked
    assert [d.partition for d in found] == sorted({d.partition for d in found})
    assert all(0 < d.rows <= sizes[int(d.partition[6:])] for d in found)
    filled = sum(1 for n in sizes if n)
    assert len(found) == min(asked, filled)


async def test_a_plan_runs_backwards_and_a_rehearsal_only_looks(tmp_path: Path) -> None:
    check = {"name": "level", "sql": "level < 9", "severity": "block"}
    spec = {"partition": {"by": "time", "column": "at", "every": "day"}, "checks": [check]}
    bench = Bench(tmp_path, spec=spec)
    bench.write(pl.concat([rows(4, day=f"2026-11-{day:02d}") for day in (1, 2, 3)]))
    job = bench.job()
    request = requests.write_request(bench.store, job.spec, tmp_path, Selection(), "r")
    decided = list(builder.decisions(job, bench.store, Selection(), dt.datetime.now(dt.UTC)))
    ref = RunRef(pipeline="tests", run="r", sink=bench.store.uri)
    planned_as = builder.write_plan(
        bench.store, ref, request, job, decided, RunOptions(backwards=True, canary_rows=2, max_active=3)
    )
    page = plan_pages.load_page(bench.store, planned_as.key, 0)
    assert [line.key for line in page.partitions] == [d.partition for d in reversed(decided)]
    canary = plan_pages.load_page(bench.store, planned_as.key, planned_as.pages)
    assert (planned_as.canary_rows, planned_as.windows.partitions, len(canary.partitions)) == (2, 3, 2)

    plan = plan_pages.load_plan(bench.store, planned_as.key)
    day = canary.partitions[0].key
    opened = bench.open(job, plan, day, limit=1)
    assert opened is not None
    receipts = [found.receipt for found in await bench.enrich(job, plan, opened)]
    found = bench.rehearse(job, plan, opened, receipts)
    assert (found.manifest, found.counts) == (None, Counts(rows_in=1, ok=1))
    assert not bench.keys(ids.COMMITS)
    assert not bench.keys("data/")
    strict = bench.job(checks=[{**check, "sql": "level > 9"}])
    with pytest.raises(ChecksFailed):
        bench.rehearse(strict, plan, opened, receipts)
