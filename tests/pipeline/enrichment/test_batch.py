"""One batch: every source row accounted for, what was paid for before is taken from the journal, and said so."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import polars as pl
import pytest

from pipeline.enrichment.attempt import BatchAttempt
from pipeline.enrichment.batch import enrich_batch
from pipeline.enrichment.context import batch_context
from pipeline.journal import segments, usage
from pipeline.journal.known_file import records_of
from pipeline.journal.spool import Spools
from pipeline.planning import batches
from pipeline.stores import MemoryStore
from schemas import ids
from schemas.errors import DuplicateKeys, StoreError
from schemas.manifest import Manifest, Reuse
from stages.execution.equal_rows.single_flight import Shared
from stages.journal.records import RowRecord, encode_record
from tests.pipeline.jobs import EXTRACT, Bench, rows

FILE = "file=rows.parquet"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path, spec={"limits": {"batch_rows": 10}})
    bench.write(rows(25))
    return bench


async def test_a_run_pays_once_for_each_different_row_and_the_next_for_new_ones_only(bench: Bench) -> None:
    first = await bench.one()
    assert (first.usage.calls, first.reuse, first.counts.ok) == (25, Reuse(), 25)
    bench.write(pl.concat([rows(25), rows(28).slice(25)]))
    second = await bench.one()
    assert (second.usage.calls, second.reuse.rows_reused, second.counts.ok) == (3, 25, 28)


async def test_a_changed_cell_costs_its_row_and_one_that_no_stage_reads_costs_nothing(bench: Bench) -> None:
    await bench.one()
    frame = rows(25)
    bench.write(frame.with_columns(at=pl.col("at").dt.offset_by("1d")))
    unread = await bench.one()
    assert (unread.usage.calls, unread.reuse.rows_reused) == (0, 25)
    bench.write(frame.with_columns(text=pl.when(pl.col("id") == 7).then(pl.lit("New")).otherwise("text")))
    changed = await bench.one()
    assert (changed.usage.calls, changed.reuse.rows_reused) == (1, 24)


async def test_answered_rows_are_dealt_in_large_batches_without_the_calls_behind_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch is an activity, and each record takes a while to read: what is answered must cost little of both."""
    monkeypatch.setattr(batches, "DEFAULT_BATCH_ROWS", 10)
    bench = Bench(tmp_path)
    bench.write(rows(25))
    await bench.one()
    bench.write(rows(26))
    job = bench.job()
    opened = bench.open(job, bench.plan(job), FILE)
    assert opened is not None
    (batch,) = opened.batches
    assert batch.known is not None
    known = records_of(bench.store.get(batch.known))
    assert {type(record) for record in known} == {RowRecord}
    assert len(known) == 25


async def test_reprocessing_all_pays_for_nothing_and_fresh_pays_for_all(bench: Bench) -> None:
    first = await bench.one()
    again = await bench.one(reprocess="all")
    assert (again.usage.calls, again.reuse.rows_reused, again.generation) == (0, 25, 2)
    assert again.content_digest == first.content_digest
    fresh = await bench.one(reprocess="all", fresh=True)
    assert (fresh.usage.calls, fresh.reuse.rows_reused) == (25, 0)


@pytest.mark.parametrize("size", [10, 100])
async def test_equal_rows_are_paid_for_once_and_counted_as_shared(bench: Bench, size: int) -> None:
    frame = rows(10)
    bench.write(pl.concat([frame, frame.with_columns(id=pl.col("id") + 100)]))
    manifest = await bench.one(bench.job(limits={"batch_rows": size}))
    assert (manifest.usage.calls, manifest.reuse, manifest.counts.ok) == (10, Reuse(rows_shared=10), 20)


async def test_an_attempt_that_died_is_carried_on_from_its_records(bench: Bench) -> None:
    """What the same run paid for before is its own: no reuse, and in its usage."""
    job = bench.job()
    plan = bench.plan(job, "run-1")
    opened = bench.open(job, plan, FILE)
    assert opened is not None
    await bench.enrich(job, plan, opened)
    again = bench.open(job, plan, FILE)
    assert again is not None
    receipts = [done.receipt for done in await bench.enrich(job, plan, again)]
    published = bench.publish(job, plan, again, receipts).manifest
    assert published is not None
    assert (published.usage.calls, published.usage.repaid, published.reuse.rows_reused) == (25, 0, 0)


async def test_records_that_never_reached_the_store_are_found_in_the_spool(bench: Bench, tmp_path: Path) -> None:
    bench.spools = Spools(tmp_path / "spool")
    job = bench.job()
    plan = bench.plan(job, "run-1")
    opened = bench.open(job, plan, FILE)
    assert opened is not None
    assert isinstance(bench.store, MemoryStore)

    def fault(operation: str, key: str) -> None:
        if operation == "put_new" and key.startswith(ids.JOURNAL):
            raise StoreError("away")

    bench.store.fault = fault
    with pytest.raises(StoreError, match="away"):
        await bench.enrich(job, plan, opened)
    assert not bench.keys(ids.JOURNAL)
    bench.store.fault = lambda operation, key: None
    receipts = [done.receipt for done in await bench.enrich(job, plan, opened)]
    published = bench.publish(job, plan, opened, receipts).manifest
    assert published is not None
    assert (published.usage.calls, published.usage.repaid) == (25, 0)
    assert list((tmp_path / "spool").iterdir()) == []


async def test_a_drained_batch_has_no_receipt_and_its_answers_are_kept(bench: Bench) -> None:
    job = bench.job(limits={"batch_rows": 10, "rows_in_flight": 1})
    plan = bench.plan(job, "run-1")
    opened = bench.open(job, plan, FILE)
    assert opened is not None
    drain = asyncio.Event()
    attempt = BatchAttempt.of(job, bench.store, "run-1", opened, 0)
    context = await batch_context(attempt, Shared(), drain)
    context.on_row = lambda rows: drain.set()
    done = await enrich_batch(attempt, context)
    assert (done.receipt, done.drained, done.stopped) == ("", True, None)
    assert usage.usage_of_run(bench.store, FILE, "run-1").calls >= 1
    assert not [key for key in bench.keys(ids.STAGING) if "receipt" in key]


async def test_every_row_is_ok_rejected_or_filtered_over_several_stages(bench: Bench) -> None:
    bench.write(rows(20, blank=4))
    stages = [
        {**EXTRACT, "when_empty": "reject"},
        {"name": "few", "uses": "sql", "query": "SELECT * FROM rows WHERE id % 2 = 0"},
    ]
    manifest = await bench.one(bench.job(stages=stages))
    counts = manifest.counts
    assert (counts.rows_in, counts.ok, counts.rejected, counts.filtered, counts.out) == (20, 8, 4, 8, 8)


async def test_rejects_of_another_run_are_kept_until_they_are_asked_for_again(bench: Bench) -> None:
    bench.write(rows(10, blank=2))
    job = bench.job(stages=[{**EXTRACT, "when_empty": "reject"}])
    await bench.one(job)
    again = await bench.one(job, reprocess="all")
    assert (again.usage.calls, again.counts.rejected, again.reuse.rows_reused) == (0, 2, 10)


async def test_two_rows_of_one_key_fail_the_partition_before_any_call(bench: Bench) -> None:
    bench.write(pl.concat([rows(20), rows(1)]))
    job = bench.job(source={"path": "rows.parquet", "key": ["id"]})
    with pytest.raises(DuplicateKeys, match="two rows have the key id=0"):
        await bench.run(job)
    assert not bench.keys(ids.JOURNAL)


async def test_damage_of_the_journal_is_said_in_the_manifest(bench: Bench) -> None:
    await bench.one()
    key = ids.journal_segment(FILE, "run-0", 0, uuid.uuid4().hex)
    bench.store.put_new(key, b'{"tandem_journal":1}\n00000000 {"k":"row"}\n')
    manifest: Manifest = await bench.one(reprocess="all")
    assert manifest.warnings == (f"{key}: 1 torn record(s) dropped",)


async def test_no_prompt_and_no_answer_is_in_what_the_activities_exchange(bench: Bench) -> None:
    """References only: the opened partition and the receipts hold no text of a row."""
    job = bench.job()
    plan = bench.plan(job, "run-1")
    opened = bench.open(job, plan, FILE)
    assert opened is not None
    await bench.enrich(job, plan, opened)
    said = opened.model_dump_json().encode() + b"".join(
        bench.store.get(key) for key in bench.keys(ids.STAGING) if key.endswith(".json")
    )
    assert b"angry" not in said
    assert b"angry" in b"".join(encode_record(r) for n in range(3) for r in segments.load_batch(
        bench.store, FILE, "run-1", n))  # fmt: skip
