"""A small partition is opened, enriched and published by one activity, or as far as that gets; nothing is lost then."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from pipeline.activities.registered import Activities
from pipeline.enrichment.open import load_opened
from pipeline.runs import requests
from pipeline.sinks import commits
from pipeline.stores import Store, open_store
from schemas import ids
from schemas.errors import CommitConflict
from schemas.messages.base import RunRef
from schemas.messages.partition import Opened, OpenRequest, PartitionResult, PublishRequest
from schemas.messages.run import PlanRequest
from schemas.plan import Selection
from schemas.spec.sections import Spec
from tests.pipeline.jobs import EXTRACT, rows

PARTITION, ROWS = "file=rows.parquet", 12
FOLDER = ids.staging_folder(PARTITION, ActivityEnvironment.default_info().workflow_run_id or "")


class Work:
    """A planned run of one partition, and the activities of a worker."""

    def __init__(self, folder: Path, **spec: Any) -> None:
        rows(ROWS).write_parquet(folder / "rows.parquet")
        whole = {"name": "small", "source": {"path": "rows.parquet", "key": ["id"]}, "stages": [EXTRACT],
                 "sink": {"path": "out"}, **spec}  # fmt: skip
        self.spec = Spec.model_validate(whole)
        self.store: Store = open_store(str(folder / "out"))
        self.ref = RunRef(pipeline=self.spec.name, run="run-1", sink=self.store.uri)
        self.activities = Activities()
        requests.write_request(self.store, self.spec, folder, Selection(), self.ref.run)

    async def planned(self) -> OpenRequest:
        request = PlanRequest(ref=self.ref, request=ids.request(self.ref.run))
        plan = await self.environment().run(self.activities.run.plan, request)
        return OpenRequest(ref=self.ref, plan=plan.key, partition=PARTITION, limit=ROWS, onward=True)

    def environment(self, attempt: int = 1) -> ActivityEnvironment:
        environment = ActivityEnvironment(client=cast(Client, object()))  # nobody holds the partition
        environment.info = dataclasses.replace(environment.info, attempt=attempt)
        return environment

    async def open(self, request: OpenRequest, attempt: int = 1) -> Opened:
        return await self.environment(attempt).run(self.activities.opening.open, request)

    @property
    def staged(self) -> list[str]:
        return list(self.store.keys(ids.STAGING))


@pytest.fixture
def work(tmp_path: Path) -> Callable[..., Work]:
    return lambda **spec: Work(tmp_path, **spec)


async def test_it_is_published_without_an_object_on_the_way(work: Callable[..., Work]) -> None:
    one = work()
    request = await one.planned()
    opened = await one.open(request)
    assert opened.onward is not None
    published = opened.onward.published
    assert published is not None
    assert (published.outcome, published.counts.ok, published.usage.calls) == ("published", ROWS, ROWS)
    assert opened.onward.batch.rows == ROWS
    assert one.staged == []


async def test_an_attempt_after_a_lost_result_finds_what_was_published(work: Callable[..., Work]) -> None:
    one = work()
    request = await one.planned()
    first = await one.open(request)
    again = await one.open(request, attempt=2)
    assert first.onward is not None
    assert again.onward is not None
    assert again.onward.published == first.onward.published
    manifest = commits.current(one.store, PARTITION)
    assert manifest is not None
    assert manifest.generation == 1


async def test_several_batches_are_left_to_their_workflow(work: Callable[..., Work]) -> None:
    one = work(limits={"batch_rows": 5})
    opened = await one.open(await one.planned())
    assert (opened.batches, opened.onward) == (3, None)
    assert load_opened(one.store, opened.opened).rows == ROWS
    assert commits.current(one.store, PARTITION) is None


async def test_what_was_refused_leaves_its_counts(work: Callable[..., Work]) -> None:
    """They are in the report of the run, which reads them when the partition is closed."""
    one = work(checks=[{"name": "none", "sql": "level < 0"}])
    with pytest.raises(ApplicationError) as caught:
        await one.open(await one.planned())
    assert caught.value.type == "ChecksFailed"
    assert ids.refusal(FOLDER) in one.staged


async def test_a_lost_commit_is_left_to_its_workflow(
    work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = work()
    request = await one.planned()

    async def lost(request: PublishRequest, store: Store) -> PartitionResult:
        raise CommitConflict("another run was faster")

    monkeypatch.setattr(one.activities.partition, "published", lost)
    opened = await one.open(request)
    assert opened.onward is not None
    assert (opened.onward.batch.state, opened.onward.published) == ("done", None)
    assert load_opened(one.store, opened.opened).rows == ROWS
    assert any("-receipt-" in key for key in one.staged), "the workflow publishes from what was staged"


async def test_a_publication_that_has_begun_runs_to_its_end(
    work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = work()
    request = await one.planned()
    begun, go_on = asyncio.Event(), asyncio.Event()
    publish = one.activities.partition.published

    async def slow(request: PublishRequest, store: Store) -> PartitionResult:
        begun.set()
        await go_on.wait()
        return await publish(request, store)

    monkeypatch.setattr(one.activities.partition, "published", slow)
    environment = one.environment()
    running = asyncio.ensure_future(environment.run(one.activities.opening.open, request))
    await begun.wait()
    environment.cancel()
    await asyncio.sleep(0.05)
    go_on.set()
    opened = await running
    assert opened.onward is not None
    assert opened.onward.published is not None
    assert opened.onward.published.outcome == "published"


async def test_a_table_is_written_from_what_its_writer_can_read(work: Callable[..., Work]) -> None:
    one = work(sink={"path": "out", "format": "delta"})
    opened = await one.open(await one.planned())
    assert opened.onward is not None
    assert opened.onward.published is not None
    assert any(key.startswith("data/_delta_log/") for key in one.store.keys("data/"))
    assert one.staged == []
