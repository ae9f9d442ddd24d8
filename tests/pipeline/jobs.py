"""A run without Temporal: plan, open, enrich and publish one after another, each as its activity would."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.enrichment.answered_batch import Listeners, reuse_answers
from pipeline.enrichment.attempt import BatchAttempt, PartitionRun
from pipeline.enrichment.batch import Enriched, enrich_batch
from pipeline.enrichment.context import batch_context
from pipeline.enrichment.open import answers_of, open_partition
from pipeline.journal.spool import Spools
from pipeline.planning import builder
from pipeline.planning.job import Job
from pipeline.planning.preparation import make_job
from pipeline.publishing import cleanup
from pipeline.publishing import publish as publish_module
from pipeline.publishing.publish import Published
from pipeline.runs import plan_pages, requests
from pipeline.stores import MemoryStore, Store
from schemas import ids
from schemas.manifest import Manifest
from schemas.messages.base import RunRef
from schemas.plan import Plan, Selection
from schemas.spec.sections import Spec
from schemas.staging import OpenedPartition
from stages.execution.equal_rows.single_flight import Shared
from stages.models.settings.choice import ModelServices

Records = list[dict[str, Any]]
EXTRACT: dict[str, Any] = {
    "name": "triage", "uses": "extract", "model": "offline:lexical", "prompt": "{{ text }}",
    "output": {"summary": "str", "level": {"type": "int", "ge": 1, "le": 5}},
}  # fmt: skip


def rows(count: int, *, blank: int = 0, day: str = "2026-11-01") -> pl.DataFrame:
    """`count` rows with a text each, of which the first `blank` have none."""
    texts = [None if at < blank else f"Invoice number {at} is wrong and the customer is angry." for at in range(count)]
    return pl.DataFrame(
        {
            "id": range(count),
            "text": pl.Series(texts, dtype=pl.String),
            "at": [dt.datetime.fromisoformat(f"{day}T10:00") + dt.timedelta(minutes=n) for n in range(count)],
        },
        schema_overrides={"at": pl.Datetime("us")},
    )


def nothing(rows: int) -> None:
    pass


@dataclass
class Bench:
    """A folder with `rows.parquet`, a sink, and the spec over them."""

    base: Path
    store: Store = field(default_factory=lambda: MemoryStore(uuid.uuid4().hex))
    spec: Mapping[str, Any] = field(default_factory=dict)
    spools: Spools | None = None
    now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)
    by_row: bool = False  # batches of known answers, too
    as_columns: int = 0  # batches that were made of known answers alone

    def write(self, frame: pl.DataFrame, name: str = "rows.parquet") -> None:
        frame.write_parquet(self.base / name)

    def job(self, **changed: Any) -> Job:
        said = {
            "name": "tests", "source": {"path": "rows.parquet"}, "stages": [EXTRACT], "sink": {"path": "out"},
            **self.spec, **changed,
        }  # fmt: skip
        return make_job(Spec.model_validate(said), self.base, self.store, ModelServices())

    def plan(self, job: Job, run: str = "run-1", **selected: Any) -> Plan:
        selection = Selection(**selected)
        request = requests.write_request(self.store, job.spec, self.base, selection, run)
        ref = RunRef(pipeline=job.spec.name, run=run, sink=self.store.uri)
        decided = builder.decisions(job, self.store, selection, dt.datetime.now(dt.UTC))
        return plan_pages.load_plan(self.store, builder.write_plan(self.store, ref, request, job, decided).key)

    def planned(self, plan: Plan) -> dict[str, int]:
        key = ids.plan(plan.run, plan.plan_id)
        pages = [plan_pages.load_page(self.store, key, number) for number in range(plan.pages)]
        return {line.key: line.rows for page in pages for line in page.partitions if line.run}

    def open(self, job: Job, plan: Plan, partition: str, limit: int | None = None) -> OpenedPartition | None:
        folder = ids.staging_folder(partition, uuid.uuid4().hex)
        limit = self.planned(plan).get(partition, 10**9) if limit is None else limit
        return open_partition(PartitionRun(job, plan, self.store, partition), limit=limit, folder=folder).opened

    async def enrich(self, job: Job, plan: Plan, opened: OpenedPartition) -> list[Enriched]:
        shared, drain = Shared(), asyncio.Event()
        done = []
        answers = answers_of(self.store, opened, latest=False)
        for number in range(len(opened.batches)):
            attempt = BatchAttempt.of(job, self.store, plan.run, opened, number)
            reused = None if self.by_row else await reuse_answers(attempt, self.spools, Listeners())
            if reused is not None:
                self.as_columns += 1
                done.append(reused)
                continue
            context = await batch_context(attempt, shared, drain, self.spools, answers)
            done.append(await enrich_batch(attempt, context))
        return done

    def publish(self, job: Job, plan: Plan, opened: OpenedPartition, receipts: list[str]) -> Published:
        return publish_module.publish(
            PartitionRun(job, plan, self.store, opened.partition), opened, receipts, attempt=1
        )

    def rehearse(self, job: Job, plan: Plan, opened: OpenedPartition, receipts: list[str]) -> Published:
        work = PartitionRun(job, plan, self.store, opened.partition)
        return publish_module.publish(work, opened, receipts, attempt=1, rehearsal=True)

    async def run(
        self,
        job: Job | None = None,
        run: str | None = None,
        *,
        changed: Callable[[str, list[str]], None] = lambda partition, receipts: None,
        **selected: Any,
    ) -> dict[str, Published]:
        """Everything that is due, published. `changed` is told of a partition's receipts before it is published."""
        job = job or self.job()
        plan = self.plan(job, run or f"run-{uuid.uuid4().hex[:8]}", **selected)
        out = {}
        for partition in self.planned(plan):
            opened = self.open(job, plan, partition)
            if opened is None:
                continue
            receipts = [found.receipt for found in await self.enrich(job, plan, opened)]
            changed(partition, receipts)
            out[partition] = self.publish(job, plan, opened, receipts)
            manifest = out[partition].manifest
            if manifest is not None:
                self.settle(job, manifest)
        return out

    def settle(self, job: Job, manifest: Manifest) -> None:
        """Do what follows a commit."""
        cleanup.after_commit(job, self.store, manifest, self.now())

    async def one(self, job: Job | None = None, run: str | None = None, **selected: Any) -> Manifest:
        """The same, of a source of one partition."""
        (published,) = (await self.run(job, run, **selected)).values()
        assert published.manifest is not None
        return published.manifest

    def keys(self, prefix: str = "") -> list[str]:
        return [info.key for info in self.store.list(prefix)]
