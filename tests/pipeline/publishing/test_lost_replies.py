"""A publication whose writes all arrive, and whose replies do not: each in turn, on a real S3 server."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from pipeline.outputs.verify import verify
from pipeline.publishing.publish import Published
from pipeline.stores import Store, open_store
from schemas import ids
from schemas.errors import StoreError
from schemas.plan import Plan
from schemas.staging import OpenedPartition
from tests.harness.fault_proxy import FaultProxy
from tests.harness.servers import SeaweedS3
from tests.pipeline.jobs import Bench, rows

PARTITION = "file=rows.parquet"
T = TypeVar("T")


@pytest.fixture
def proxy(seaweed: SeaweedS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with FaultProxy.start(seaweed.port) as proxy:
        for name, value in seaweed.env(proxy.url).items():
            monkeypatch.setenv(name, value)
        yield proxy


async def attempted(step: Callable[[], Awaitable[T]]) -> T:
    """As an activity is: tried again where the store was away."""
    for _ in range(3):
        with contextlib.suppress(StoreError):
            return await step()
    return await step()


async def publish(bench: Bench, run: str, count: int) -> None:
    """A generation of the partition, each step as its activity would."""
    job = bench.job(partition={"by": "files"})

    async def planned() -> Plan:
        return bench.plan(job, run)

    async def opened() -> OpenedPartition | None:
        return bench.open(job, plan, PARTITION)

    async def published() -> Published:
        assert partition is not None
        return bench.publish(job, plan, partition, receipts)

    plan = await attempted(planned)
    partition = await attempted(opened)
    assert partition is not None
    receipts = [done.receipt for done in await attempted(lambda: bench.enrich(job, plan, partition))]
    done = await attempted(published)
    assert (done.counts.rows_in, done.counts.ok, done.counts.out) == (count, count, count)


async def publish_twice(folder: Path, store: Store) -> list[int]:
    """Two generations. Those that are there afterwards."""
    bench = Bench(folder, store)
    for count in (6, 8):
        bench.write(rows(count))
        await publish(bench, f"run-{count}", count)
    assert not verify(store).problems
    found = [ids.parse_commit(info.key) for info in store.list(ids.commits_of(PARTITION))]
    return sorted(commit[1] for commit in found if commit is not None)


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.prove)])
async def test_the_reply_to_each_write_in_turn_is_lost_and_none_is_a_conflict(
    tmp_path: Path, seaweed: SeaweedS3, proxy: FaultProxy, step: int
) -> None:
    bucket = seaweed.bucket("replies")
    nth, puts = 0, 1
    while nth <= puts:  # 0: none is lost, and the writes are counted
        store = open_store(f"s3://{bucket}/{uuid.uuid4().hex}")
        folder = tmp_path / str(nth)
        folder.mkdir()
        proxy.clear()
        if nth:
            proxy.set(drop_reply={"method": "PUT", "nth": nth})
        assert await publish_twice(folder, store) == [1, 2], f"the reply to write {nth} was lost"
        stats = proxy.stats()
        assert stats.dropped == bool(nth)
        if not nth:
            puts = stats.requests["PUT"]
        nth += step
        store.close()
    assert puts >= 20
