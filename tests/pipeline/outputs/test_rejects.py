"""Asking again for rejected rows voids the reject and the calls that caused it, and nothing else."""

from __future__ import annotations

import uuid
from pathlib import Path

import orjson
import polars as pl
import pytest

from pipeline.journal.segments import Reading, read_segments
from pipeline.outputs.rejects import Rejects, all_rejects, classes, retryable, void
from pipeline.sinks.outcomes import write_outcome
from pipeline.sinks.row_files import REJECTS
from pipeline.stores import MemoryStore
from schemas import ids
from schemas.errors import RejectRateExceeded
from schemas.messages.partition import PartitionResult
from stages.journal.known import Known
from stages.journal.records import RowRecord, VoidRecord
from tests.pipeline.jobs import EXTRACT, Bench, rows
from tests.pipeline.journal.test_journal import call, row

FILE = "file=rows.parquet"


def reject(at: int, *calls: str) -> dict[str, object]:
    return {
        "row_id": f"id-{at}", "key": "{}", "stage": "triage", "error": "invalid", "attempts": len(calls),
        "message": "no", "raw_answer": None, "row_fingerprint": f"r{at}", "stage_fingerprint": "stage",
        "calls": orjson.dumps([[name, 0] for name in calls]).decode(),
    }  # fmt: skip


def test_a_retry_voids_the_reject_and_its_last_call_and_keeps_all_others() -> None:
    store = MemoryStore(uuid.uuid4().hex)
    found = Rejects(FILE, 1, pl.DataFrame([reject(0, "q1", "q2", "q3"), reject(1)], schema=pl.Schema(REJECTS)))
    assert void(store, found) == 2
    keys = [info.key for info in store.list(ids.journal_segments(FILE))]
    records = [record for records in read_segments(store, keys, Reading()) for record in records]
    voids = {record.row: record.calls for record in records if isinstance(record, VoidRecord)}
    assert voids == {"r0": (("q3", 0),), "r1": ()}
    rejected = RowRecord("stage", "r0", "id-0", "rejected", None, {"kind": "x"}, (), "run-1", 1.0)
    known = Known([call("q1"), call("q2"), call("q3"), rejected, row("other"), *records])
    assert set(known.calls) == {("q1", 0), ("q2", 0)}
    assert set(known.rows) == {("stage", "other")}


def test_of_an_answer_that_a_later_stage_rejected_all_calls_are_voided() -> None:
    store = MemoryStore(uuid.uuid4().hex)
    found = Rejects(FILE, 1, pl.DataFrame([{**reject(0, "q1", "q2"), "answered": True}], schema=pl.Schema(REJECTS)))
    assert void(store, found) == 1
    keys = [info.key for info in store.list(ids.journal_segments(FILE))]
    records = [record for records in read_segments(store, keys, Reading()) for record in records]
    known = Known([call("q1"), call("q2"), row("r0"), *records])
    assert (known.rows, known.calls) == ({}, {})


def test_only_what_a_model_caused_is_asked_again() -> None:
    nobody = {**reject(1, "q"), "row_fingerprint": ""}
    other = {**reject(2), "error": "other"}
    frame = pl.DataFrame([reject(0), nobody, other], schema=pl.Schema(REJECTS))
    found = [Rejects(FILE, 1, frame), Rejects("file=b", 1, frame[1:2]), Rejects("file=c", 1, frame[:0])]
    assert [list(chosen.rows["row_id"]) for chosen in retryable(found)] == [["id-0", "id-2"]]
    assert [list(chosen.rows["row_id"]) for chosen in retryable(found, "other")] == [["id-2"]]
    assert retryable(found, "none such") == []


async def test_rejects_are_told_by_class_and_healed_rows_take_their_place(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(rows(10, blank=2))
    job = bench.job(stages=[{**EXTRACT, "when_empty": "reject"}])
    await bench.one(job)
    (found,) = all_rejects(bench.store)
    (told,) = classes(found)
    assert (told["partition"], told["stage"], told["rows"]) == (FILE, "triage", 2)
    assert void(bench.store, found) == 1, "two rows that are equal are asked for once"
    again = await bench.one(job, reprocess="all")
    assert (again.counts.rejected, again.reuse.rows_reused) == (2, 8), "asked again, and refused again"


async def test_a_check_of_what_a_stage_could_not_write_asks_no_other_stage_again(tmp_path: Path) -> None:
    """Of a row that `mood` rejected and a check rejects for it, `mood` is the cause, and not what came before."""
    bench = Bench(tmp_path)
    bench.write(rows(4).with_columns(note=pl.Series(["a", "b", None, "c"])))
    mood = {**EXTRACT, "name": "mood", "prompt": "{{ note }}", "output": {"mood": "str"}, "when_empty": "reject"}
    rule = {"name": "known", "sql": "mood IS NOT NULL"}
    checks = {"name": "sane", "uses": "checks", "with": {"rules": [rule]}}
    await bench.one(bench.job(stages=[EXTRACT, {**mood, "on_reject": "null"}, checks]))
    (found,) = all_rejects(bench.store)
    assert sorted(found.rows["stage"]) == ["mood", "sane"]
    (again,) = retryable([found])
    assert list(again.rows["stage"]) == ["mood"]


async def test_rejects_of_what_was_not_published_hide_those_of_the_generation_before(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(rows(10, blank=1))
    stage = {**EXTRACT, "when_empty": "reject"}
    await bench.one(bench.job(stages=[stage]))
    bench.write(rows(10, blank=9))
    with pytest.raises(RejectRateExceeded):
        await bench.run(bench.job(stages=[stage]), "run-2")
    write_outcome(bench.store, "run-2", PartitionResult(partition=FILE, outcome="failed", error="RejectRateExceeded"))
    (found,) = all_rejects(bench.store)
    assert (found.generation, found.rows.height) == (None, 9)
    assert list(all_rejects(bench.store, "file=other")) == []
