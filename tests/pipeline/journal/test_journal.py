"""The journal on a store: nothing that was paid for is lost, nothing is counted twice, damage costs only itself."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.journal import compacted, record_frames
from pipeline.journal.compaction import InUse, compact
from pipeline.journal.join import keys_of_batch, split_by_batch
from pipeline.journal.known_file import records_of
from pipeline.journal.segments import SegmentWriter, load_batch
from pipeline.journal.usage import usage_of_run
from pipeline.stores import MemoryStore
from schemas import ids
from schemas.errors import StoreError
from schemas.manifest import TierUsage, Usage
from stages.journal.known import Known
from stages.journal.records import (
    CallRecord,
    CommonRecord,
    Record,
    RequestRecord,
    RowRecord,
    VoidRecord,
    encode_record,
    record_of,
)
from stages.journal.segments import encode_segment

DAY = "day=2026-11-01"
NOW = dt.datetime(2026, 11, 2, tzinfo=dt.UTC)


def row(key: str, *, id: str = "", run: str = "run-1", at: float = 1.0) -> RowRecord:
    return RowRecord("stage", key, id or f"id-{key}", "ok", "{}", None, (), run, at)


def call(key: str, *, id: str = "id", run: str = "run-1", nonce: str = "", **given: Any) -> CallRecord:
    said: dict[str, Any] = {
        "raw": "{}", "error": None, "usage": {"input": 10, "output": 2, "cached_input": 1, "reasoning": 1},
        "cost_usd": 0.5, "at": 1.0, **given,
    }  # fmt: skip
    return CallRecord(
        request=key, ordinal=0, id=id, model="m", request_id=None, latency_ms=1, run=run, batch=0,
        nonce=nonce or uuid.uuid4().hex, **said,
    )  # fmt: skip


def put(store: MemoryStore, records: Iterable[Record], *, run: str = "run-1", batch: int = 0) -> str:
    before = {info.key for info in store.list(ids.JOURNAL)}
    asyncio.run(SegmentWriter(store, DAY, run, batch).put(encode_segment(records)))
    (key,) = {info.key for info in store.list(ids.JOURNAL)} - before
    return key


def facts(records: Iterable[Record]) -> set[bytes]:
    return {encode_record(record) for record in records}


def wanted(*pairs: tuple[int, str]) -> pl.DataFrame:
    return pl.concat([keys_of_batch(0, []), *(keys_of_batch(batch, [key]) for batch, key in pairs)])


def dealt(store: MemoryStore, pairs: pl.DataFrame, folder: Path) -> tuple[dict[int, list[Record]], list[str]]:
    place = folder / uuid.uuid4().hex
    place.mkdir()
    files, damage = split_by_batch(store, DAY, pairs, place)
    return {batch: records_of(path.read_bytes()) for batch, path in files.items()}, damage


# Dealing ------------------------------------------------------------------------------------------------------------

KEYS = st.sampled_from([f"k{n}" for n in range(8)])
RECORDS = st.one_of(
    st.builds(lambda key, id: row(key, id=id), KEYS, KEYS),
    st.builds(lambda key, id, n: call(key, id=id, nonce=f"{n:032x}"), KEYS, KEYS, st.integers(0, 50)),
    st.builds(lambda key, id: VoidRecord("stage", key, id, (), "r", 2.0), KEYS, KEYS),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.booleans(), st.lists(RECORDS, max_size=8)), max_size=4),
    st.lists(st.tuples(st.integers(0, 3), KEYS), max_size=10),
)
def test_each_batch_is_dealt_just_the_records_of_its_rows(
    tmp_path: Path, segments: list[tuple[bool, list[Record]]], pairs: list[tuple[int, str]]
) -> None:
    """Against a naive join, with some segments merged already and small chunks."""
    store = MemoryStore(uuid.uuid4().hex)
    everything: list[Record] = []
    for merge, records in segments:
        everything += records
        if records:
            put(store, records)
        if merge:
            compact(store, DAY, NOW)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compacted, "CHUNK", 3)
        patch.setattr(record_frames, "CHUNK", 3)
        found, damage = dealt(store, wanted(*pairs), tmp_path)
    naive: dict[int, set[bytes]] = {}
    for batch, key in pairs:
        for record in everything:
            assert not isinstance(record, RequestRecord | CommonRecord)
            joined = record.request if isinstance(record, CallRecord) else record.row
            if key in (joined, record.id):
                naive.setdefault(batch, set()).add(encode_record(record))
    assert not damage
    assert {batch: facts(records) for batch, records in found.items()} == naive


# Compaction ---------------------------------------------------------------------------------------------------------


def late(store_now: list[dt.datetime]) -> MemoryStore:
    return MemoryStore(uuid.uuid4().hex, now=lambda: store_now[0])


def test_compaction_keeps_every_fact_and_removes_only_what_it_merged_after_a_grace(tmp_path: Path) -> None:
    clock = [NOW]
    store = late(clock)
    records: list[Record] = [row("a"), call("b"), VoidRecord("stage", "c", "id-c", (("q", 0),), "r", 1.0)]
    old = put(store, records[:1])
    clock[0] = NOW + dt.timedelta(minutes=14)
    young = put(store, records[1:])
    merged = compact(store, DAY, NOW + dt.timedelta(minutes=15, seconds=1))
    left = {info.key for info in store.list(ids.JOURNAL)}
    assert left == {merged, young}
    assert old not in left
    found, _ = dealt(store, wanted((0, "id-a"), (0, "a"), (0, "b"), (0, "c")), tmp_path)
    assert facts(found[0]) == facts(records)


def test_compacting_again_changes_nothing_and_merges_the_merged() -> None:
    clock = [NOW]
    store = late(clock)
    put(store, [row("a")])
    first = compact(store, DAY, NOW + dt.timedelta(hours=1))
    assert compact(store, DAY, NOW + dt.timedelta(hours=2)) is None
    put(store, [row("b"), row("a")])
    clock[0] = NOW + dt.timedelta(hours=2)
    second = compact(store, DAY, NOW + dt.timedelta(hours=3))
    assert [info.key for info in store.list(ids.JOURNAL)] == [second] != [first]
    assert second is not None
    assert pq.read_table(pa.BufferReader(store.get(second))).num_rows == 2, "a fact is kept once"


def test_what_another_version_wrote_is_never_removed_nor_guessed_at(tmp_path: Path) -> None:
    store = MemoryStore(uuid.uuid4().hex, now=lambda: NOW)
    other = ids.journal_segment(DAY, "run-2", 0, "f" * 32)
    store.put_new(other, b'{"tandem_journal":2}\n00000000 {}\n')
    parquet = ids.journal_compact(DAY, "0" * 64)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"body": ["x"]}).replace_schema_metadata({b"tandem_journal": b"2"}), sink)
    store.put_new(parquet, sink.getvalue().to_pybytes())
    put(store, [row("a"), call("b")])
    compact(store, DAY, NOW + dt.timedelta(days=1))
    assert {other, parquet} <= {info.key for info in store.list(ids.JOURNAL)}
    found, damage = dealt(store, wanted((0, "a")), tmp_path)
    assert found == {0: [row("a")]}
    assert [said.partition(":")[0] for said in sorted(damage)] == sorted([other, parquet])
    assert usage_of_run(store, DAY, "run-1").calls == 1


@pytest.mark.parametrize("kept", [0, 20, 100, -1])
def test_a_corrupt_compacted_journal_is_named_and_never_stands_in_the_way(tmp_path: Path, kept: int) -> None:
    store = MemoryStore(uuid.uuid4().hex, now=lambda: NOW)
    put(store, [row("a")])
    broken = compact(store, DAY, NOW + dt.timedelta(days=1))
    assert broken is not None
    store.put(broken, store.get(broken)[:kept])
    put(store, [row("b")])
    found, damage = dealt(store, wanted((0, "a"), (1, "b")), tmp_path)
    assert found == {1: [row("b")]}
    assert len(damage) == 1
    assert damage[0].startswith(f"{broken}: cannot be read")
    merged = compact(store, DAY, NOW + dt.timedelta(days=2))
    assert {info.key for info in store.list(ids.JOURNAL)} == {broken, merged}


def test_a_torn_segment_costs_only_its_torn_records(tmp_path: Path) -> None:
    store = MemoryStore(uuid.uuid4().hex)
    key = put(store, [row("a"), row("b"), row("c")])
    put(store, [row("d")])
    lines = store.get(key).split(b"\n")
    lines[2] = lines[2][:-5] + b"?" * 5
    store.put(key, b"\n".join(lines)[:-4])
    found, damage = dealt(store, wanted(*((0, key) for key in "abcd")), tmp_path)
    assert facts(found[0]) == facts([row("a"), row("d")])
    assert damage == [f"{key}: 2 torn record(s) dropped"]
    assert load_batch(store, DAY, "run-1", 0).count(row("a")) == 1


def test_segments_that_are_merged_are_not_read_again_while_they_stay_for_the_grace(tmp_path: Path) -> None:
    clock = [NOW]
    store = late(clock)
    merged = put(store, [row("a")])
    compact(store, DAY, NOW)
    fresh = put(store, [row("b")])
    read: list[str] = []
    store.fault = lambda operation, key: read.append(key) if operation == "get" else None
    found, _ = dealt(store, wanted((0, "a"), (0, "b")), tmp_path)
    assert facts(found[0]) == facts([row("a"), row("b")])
    assert fresh in read
    assert merged not in read
    clock[0] += dt.timedelta(seconds=1)
    assert compact(store, DAY, NOW) is not None
    assert compact(store, DAY, NOW) is None, "both are merged, and wait for the grace only"


KEEP = dt.timedelta(days=90)


def days(count: int) -> dt.datetime:
    return NOW + dt.timedelta(days=count)


def held(store: MemoryStore) -> set[str]:
    """The keys of the records of the youngest compacted object."""
    (*_, key) = sorted(store.list(f"{ids.journal_folder(DAY)}compact-"), key=lambda info: info.modified)
    return set(pl.read_parquet(store.get(key.key))["key"])


def test_what_no_current_generation_has_rested_on_for_so_long_is_dropped() -> None:
    """`keep` counts from the last use: an answer that was in use until yesterday is as good as new."""
    clock = [NOW]
    store = late(clock)

    def at(day: int, record: Record, in_use: list[str], stage: str = "stage") -> set[str]:
        clock[0] = days(day)
        put(store, [record])
        compact(store, DAY, days(day), InUse(pl.Series(in_use, dtype=pl.String), frozenset((stage,)), KEEP))
        return held(store)

    asked = replace(row("a", id="1", at=NOW.timestamp()), calls=(("asked", 0),))
    put(store, [asked, call("asked", id="1"), call("lost", id="1"), row("gone", id="2", at=NOW.timestamp())])
    assert at(0, row("n0", at=days(0).timestamp()), ["1", "2"]) == {"a", "asked", "gone", "n0"}, "of no use, and old"
    assert at(200, row("n1", at=days(200).timestamp()), ["1"]) == {"a", "asked", "gone", "n1"}, "in use until now"
    assert at(289, row("n2", at=days(289).timestamp()), ["1"]) == {"a", "asked", "gone", "n1", "n2"}
    assert at(291, row("n3", at=days(291).timestamp()), ["1"]) == {"a", "asked", "n2", "n3"}, "a in use throughout"
    assert at(300, row("n4", at=days(300).timestamp()), ["1"], "other") >= {"a", "asked"}, "its stage changed just now"
    assert at(391, row("n5", at=days(391).timestamp()), ["1"], "other") == {"n5"}


def test_an_answer_that_was_voided_does_not_come_back_when_the_row_it_was_voided_for_is_gone() -> None:
    store = MemoryStore(uuid.uuid4().hex, now=lambda: NOW)
    now = NOW.timestamp()
    void = VoidRecord("stage", "shared", "id-b", (), "rejects-retry", now + 1, answer=True)
    old, new = (row("shared", id="id-a", at=at) for at in (now, now + 2))
    put(store, [old, void, replace(new, answer='{"new": 1}')])
    in_use = InUse(pl.Series(["id-a"], dtype=pl.String), frozenset(("stage",)), KEEP)
    for day in (1, 200):
        compact(store, DAY, days(day), in_use)
        put(store, [row(f"n{day}", at=days(day).timestamp())])
    (*_, newest) = sorted(store.list(f"{ids.journal_folder(DAY)}compact-"), key=lambda info: info.modified)
    known = Known(record for body in pl.read_parquet(store.get(newest.key))["body"] if (record := record_of(body)))
    assert known.rows["stage", "shared"].answer == '{"new": 1}'


# Readers at work ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(1, 7))
def test_a_reader_finds_everything_while_a_compaction_removes_what_it_listed(tmp_path: Path, at: int) -> None:
    """The compaction comes before the reader's nth look at the store."""
    store = MemoryStore(uuid.uuid4().hex, now=lambda: NOW)
    put(store, [row("a"), call("x", id="id-a", nonce="1" * 32)])
    compact(store, DAY, NOW)
    put(store, [row("b"), call("y", id="id-b", nonce="2" * 32)])
    looks = [0]

    def fault(operation: str, key: str) -> None:
        if operation in ("list", "get", "head"):
            looks[0] += 1
            if looks[0] == at:
                store.fault = lambda operation, key: None
                compact(store, DAY, NOW + dt.timedelta(days=1))

    store.fault = fault
    found, damage = dealt(store, wanted((0, "a"), (0, "b")), tmp_path)
    assert not damage
    assert {record.row for record in found[0] if isinstance(record, RowRecord)} == {"a", "b"}
    looks[0], store.fault = 0, fault
    assert usage_of_run(store, DAY, "run-1").calls == 2


def test_a_store_that_is_away_is_no_damage(tmp_path: Path) -> None:
    """To go on without the records would be to pay for them again."""
    store = MemoryStore(uuid.uuid4().hex)
    put(store, [row("a")])
    compact(store, DAY, NOW)
    for failure in (StoreError("away"), OSError("away")):

        def fault(operation: str, key: str, failure: Exception = failure) -> None:
            if operation == "get":
                raise failure

        store.fault = fault
        with pytest.raises(type(failure) if isinstance(failure, StoreError) else (OSError, StoreError)):
            dealt(store, wanted((0, "a")), tmp_path)


# Usage --------------------------------------------------------------------------------------------------------------


def test_usage_counts_each_call_of_the_run_once_wherever_it_is_found() -> None:
    store = MemoryStore(uuid.uuid4().hex)
    mine = [call("a"), call("b", cost_usd=None)]
    put(store, [*mine, row("a"), call("a", run="run-2")])
    compact(store, DAY, NOW)
    put(store, mine, batch=1)  # a zombie's, the same facts
    put(store, [call("c", usage={"cache_write": 5, "cache_saved": -250_000_000})])
    put(store, [call("d", run="run-10")], run="run-10")
    expected = Usage(
        calls=3, input_tokens=20, output_tokens=4, cached_input_tokens=2, reasoning_tokens=2, cost_usd=1.0,
        unpriced_calls=1, cache_write_tokens=5, cache_saved_usd=-0.25,
        by_tier={"standard": TierUsage(calls=3, cost_usd=1.0, tokens=24)},
    )  # fmt: skip
    assert usage_of_run(store, DAY, "run-1") == expected
    assert usage_of_run(store, DAY, "run-10").calls == 1
    assert usage_of_run(store, DAY, "run") == Usage()


def test_unknown_outcomes_are_counted_until_an_answer_comes_to_light() -> None:
    store = MemoryStore(uuid.uuid4().hex)
    lost, found = call("a"), call("b")
    put(store, [replace(lost, raw=None), replace(found, raw=None)])
    assert usage_of_run(store, DAY, "run-1") == Usage(unknown=2)
    put(store, [found])
    assert usage_of_run(store, DAY, "run-1").unknown == 1
    assert usage_of_run(store, DAY, "run-1").calls == 1


def test_an_answer_that_was_paid_for_twice_by_the_same_row_is_told() -> None:
    store = MemoryStore(uuid.uuid4().hex)
    put(store, [call("a", id="1"), call("a", id="1"), call("a", id="2"), call("b", id="1")])
    usage = usage_of_run(store, DAY, "run-1")
    assert (usage.calls, usage.repaid) == (4, 1)
