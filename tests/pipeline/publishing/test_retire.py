"""A partition is retired in steps, and a kill between any two of them loses nothing and doubles nothing."""

from __future__ import annotations

import datetime as dt
import uuid
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.planning.job import Job
from pipeline.publishing import cleanup
from pipeline.publishing.retire import retire_planned
from pipeline.runs.finalise import finalise
from pipeline.runs.report import exit_code, load_report
from pipeline.sinks import commits
from pipeline.stores import MemoryStore
from schemas import ids
from schemas.messages.base import RunRef, RunState
from schemas.messages.run import FinaliseRequest, Totals
from schemas.plan import Plan
from tests.pipeline.jobs import EXTRACT, Bench, rows

A, B = "file=a.parquet", "file=b.parquet"


class Killed(BaseException):
    pass


class Mortal(MemoryStore):
    """A store whose process is killed at a chosen write."""

    left = 10**9

    def _write(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed

    def put_new(self, key: str, data: bytes) -> None:
        self._write()
        super().put_new(key, data)

    def put(self, key: str, data: bytes) -> None:
        self._write()
        super().put(key, data)

    def copy(self, source: str, target: str) -> None:
        self._write()
        super().copy(source, target)

    def delete(self, keys: Any) -> None:
        self._write()
        super().delete(keys)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    (tmp_path / "in").mkdir()
    spec = {"source": {"path": "in/*.parquet"}, "partition": {"by": "files"}, "stages": [EXTRACT]}
    return Bench(tmp_path, store=Mortal(uuid.uuid4().hex), spec=spec)


def retire(bench: Bench, job: Job, plan: Plan, state: RunState = "completed") -> int:
    ref = RunRef(pipeline=job.spec.name, run=plan.run, sink=bench.store.uri)
    retired = retire_planned(job.spec, bench.base, bench.store, ref, ids.plan(plan.run, plan.plan_id), state)
    assert not retired.failures
    return retired.count


def seen(bench: Bench) -> list[int]:
    """What a reader by glob gets."""
    found: list[int] = []
    for key in bench.keys("data/"):
        if key.endswith(".parquet"):
            found += pl.read_parquet(bench.store.get(key))["id"].to_list()
    return sorted(found)


async def renamed(bench: Bench) -> tuple[Job, Plan]:
    """A file that was published and renamed, its new partition published."""
    bench.write(rows(4), "in/a.parquet")
    await bench.run()
    (bench.base / "in/a.parquet").rename(bench.base / "in/b.parquet")
    job = bench.job()
    plan = bench.plan(job, "run-2")
    opened = bench.open(job, plan, B)
    assert opened is not None
    receipts = [found.receipt for found in await bench.enrich(job, plan, opened)]
    published = bench.publish(job, plan, opened, receipts).manifest
    assert published is not None
    return job, plan


async def test_a_move_waits_for_the_new_partition(bench: Bench) -> None:
    bench.write(rows(4), "in/a.parquet")
    await bench.run()
    (bench.base / "in/a.parquet").rename(bench.base / "in/b.parquet")
    job = bench.job()
    assert retire(bench, job, bench.plan(job, "run-2")) == 0
    assert seen(bench) == [0, 1, 2, 3]


async def test_a_move_is_made_even_by_a_run_that_failed_elsewhere(bench: Bench) -> None:
    assert retire(bench, *await renamed(bench), state="failed") == 1
    assert seen(bench) == [0, 1, 2, 3]


async def test_retiring_again_changes_nothing(bench: Bench) -> None:
    job, plan = await renamed(bench)
    assert [retire(bench, job, plan), retire(bench, job, plan)] == [1, 1]
    assert [manifest.kind for manifest in commits.history(bench.store, A)] == ["published", "retired"]


async def test_a_partition_that_another_run_has_published_since_is_left_alone(bench: Bench) -> None:
    bench.write(rows(4), "in/a.parquet")
    bench.write(rows(3), "in/c.parquet")
    await bench.run()
    (bench.base / "in/a.parquet").unlink()
    job = bench.job(partition={"by": "files", "gone": "retire"})
    plan = bench.plan(job, "run-2")
    bench.write(rows(5), "in/a.parquet")
    await bench.run()
    assert retire(bench, job, plan) == 0
    assert len(seen(bench)) == 8


async def test_what_cannot_be_retired_is_a_failure_of_the_run(bench: Bench) -> None:
    job, plan = await renamed(bench)
    key = ids.commit(A, 1)
    bench.store.put(key, b"damaged")
    ref = RunRef(pipeline=job.spec.name, run=plan.run, sink=bench.store.uri)
    retired = retire_planned(job.spec, bench.base, bench.store, ref, ids.plan(plan.run, plan.plan_id), "completed")
    [failure] = retired.failures
    assert (retired.count, failure.partition, failure.error) == (0, A, "Damaged")
    request = FinaliseRequest(ref=ref, plan="", state="completed", totals=Totals(), started_at=dt.datetime.now(dt.UTC))
    assert finalise(bench.store, request, retired.count, retired.failures).state == "failed"
    report = load_report(bench.store, plan.run)
    assert report is not None
    assert (report.failures, exit_code(report)) == ((failure,), 1)


@pytest.mark.parametrize("writes", range(12))
async def test_killed_at_any_step_the_next_run_makes_good(bench: Bench, writes: int) -> None:
    job, plan = await renamed(bench)
    assert isinstance(bench.store, Mortal)
    bench.store.left = writes
    try:
        retire(bench, job, plan)
    except Killed:
        pass
    else:
        assert writes >= 5, "there are more steps than that"
    bench.store.left = 10**9
    cleanup.sweep(bench.store, dt.datetime.now(dt.UTC), ended="run-2")
    job = bench.job()
    retire(bench, job, bench.plan(job, "run-3"))
    await bench.run()
    assert seen(bench) == [0, 1, 2, 3]
    current = commits.current(bench.store, A)
    assert current is not None
    assert (current.kind, current.files) == ("retired", ())
