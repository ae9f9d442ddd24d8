"""What was staged goes with the commit; an attempt that comes after it has the result of the one that committed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.activities.partition import published_before
from pipeline.publishing import cleanup
from schemas import ids
from schemas.errors import ObjectMissing
from schemas.messages.base import RunRef
from schemas.messages.partition import PublishRequest
from tests.pipeline.jobs import Bench, rows


async def test_a_repeated_attempt_finds_what_was_published_without_what_was_staged(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(rows(20))
    job = bench.job()
    (partition,) = job.snapshot.partitions
    plan = bench.plan(job, "run-1")
    opened = bench.open(job, plan, partition)
    assert opened is not None
    (key,) = [key for key in bench.keys(opened.folder) if "/open-" in key]
    ref = RunRef(pipeline="tests", run="run-1", sink=bench.store.uri)
    request = PublishRequest(ref=ref, plan=plan.plan_id, partition=partition, opened=key, receipts=(), rehearsal=False)
    with pytest.raises(ObjectMissing, match="is gone"):
        published_before(bench.store, request)
    receipts = [found.receipt for found in await bench.enrich(job, plan, opened)]
    published = bench.publish(job, plan, opened, receipts)
    cleanup.remove_staged(bench.store, key, opened.folder)
    assert bench.keys(ids.STAGING) == []
    found = published_before(bench.store, request)
    assert (found.outcome, found.generation, found.counts) == ("published", 1, published.counts)
    other = request.model_copy(update={"ref": ref.model_copy(update={"run": "run-2"})})
    with pytest.raises(ObjectMissing, match="is gone"):
        published_before(bench.store, other)
