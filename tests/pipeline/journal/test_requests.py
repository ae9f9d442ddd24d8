"""Requests in the journal: kept for as long as their calls, in no batch's way, and carried with a row that moves."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from pipeline.journal import record_frames
from pipeline.journal.compacted import everything
from pipeline.journal.compaction import InUse, compact
from pipeline.journal.record_frames import COMPACTED, REQUESTS
from pipeline.journal.segments import Reading
from pipeline.stores import MemoryStore
from schemas import ids
from stages.journal.records import CallRecord, CommonRecord, Record, RequestRecord, RowRecord
from stages.journal.segments import encode_segment
from tests.pipeline.jobs import EXTRACT, Bench, rows

DAY = "day=2026-11-01"
NOW = dt.datetime(2026, 12, 1, tzinfo=dt.UTC)
AT = NOW.timestamp() - 60


def call(request: str, id: str) -> CallRecord:
    return CallRecord(request, 0, id, "m", "{}", None, {}, 0.0, None, 0, "run-1", 0, AT, f"{id}{request}")


def answered(row: str, *requests: str) -> list[Record]:
    """A row's record, its calls and their requests; each stage's requests begin with `common`."""
    calls = tuple((request, 0) for request in requests)
    found: list[Record] = [RowRecord("s", row, row, "ok", "{}", None, calls, "run-1", AT)]
    for request in requests:
        found += [call(request, row), RequestRecord(request, row, f"common {request[0]}", "[]", "run-1", AT)]
    return found


def of_kind(store: MemoryStore, *kinds: str, partition: str = DAY) -> set[str]:
    chunks = everything(store, partition, ["kind", "key"], Reading(), requests=True)
    frames = [chunk.filter(pl.col("kind").is_in(kinds)) for chunk in chunks]
    return set(pl.concat(frames)["key"]) if frames else set()


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore("requests")
    records = [*answered("one", "a1", "b1"), *answered("two", "a2")]
    commons: list[Record] = [CommonRecord(f"common {part}", "{}", "run-1", AT) for part in "ab"]
    store.put(ids.journal_segment(DAY, "run-1", 0, "n"), encode_segment([*records, *commons]))
    return store


def test_a_request_is_kept_with_its_call_and_what_is_common_with_the_last_request(store: MemoryStore) -> None:
    now = InUse(pl.Series(["two"]), frozenset("s"), dt.timedelta(days=30))
    compact(store, DAY, NOW, now)
    assert of_kind(store, "request") == {"a1", "b1", "a2"}, "unused since today only"
    store.put(ids.journal_segment(DAY, "run-2", 0, "m"), encode_segment(answered("three", "a3")))
    compact(store, DAY, NOW + dt.timedelta(days=31), InUse(pl.Series(["two", "three"]), frozenset("s"), now.keep))
    assert of_kind(store, "call") == {"a2", "a3"}
    assert of_kind(store, "request") == {"a2", "a3"}
    assert of_kind(store, "common") == {"common a"}


def test_requests_lie_in_row_groups_of_their_own_and_once_each(store: MemoryStore) -> None:
    store.put(ids.journal_segment(DAY, "run-2", 0, "m"), encode_segment(answered("four", "a1")))
    (key,) = [compact(store, DAY, NOW)]
    assert key is not None
    with store.open_input(key) as source, pq.ParquetFile(source) as parquet:
        kinds = [set(parquet.read_row_group(at, ["kind"])["kind"].to_pylist()) for at in range(parquet.num_row_groups)]
    assert [found & set(REQUESTS) for found in kinds] == [set(), {"request"}, {"common"}]
    chunks = list(everything(store, DAY, COMPACTED.names, Reading()))
    assert not set(pl.concat(chunks)["kind"]) & set(REQUESTS), "what a batch reads has none"
    all_of_it = pl.concat(everything(store, DAY, ["kind", "key"], Reading(), requests=True))
    assert all_of_it.filter(pl.col("kind") == "request")["key"].is_unique().all()


def test_large_requests_are_written_some_megabytes_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore("large")
    monkeypatch.setattr(record_frames, "HELD_BYTES", 10_000)
    monkeypatch.setattr("pipeline.journal.compaction.HELD_BYTES", 10_000)
    records = [RequestRecord(f"r{at}", "id", "c", "x" * 4_000, "run-1", 1.0) for at in range(20)]
    store.put(ids.journal_segment(DAY, "run-1", 0, "n"), encode_segment(records))
    key = compact(store, DAY, NOW)
    assert key is not None
    with store.open_input(key) as source, pq.ParquetFile(source) as parquet:
        assert parquet.num_row_groups >= 5
    assert of_kind(store, "request") == {f"r{at}" for at in range(20)}


async def test_a_row_that_moves_takes_its_calls_and_requests_along(tmp_path: Path) -> None:
    """So that its new partition pays for nothing again when the old one's journal is gone, whatever changes."""
    spec: dict[str, Any] = {
        "source": {"path": "rows.parquet", "key": ["id"]},
        "partition": {"by": "column", "column": "c"},
    }
    bench = Bench(tmp_path, spec=spec)
    frame = rows(12).with_columns(c=pl.Series(["x", "y"] * 6))
    bench.write(frame)
    await bench.run()
    bench.write(frame.with_columns(c=pl.lit("y")))
    job = bench.job()
    published = await bench.run(job)
    assert sum(one.manifest.usage.calls for one in published.values() if one.manifest) == 0
    assert isinstance(bench.store, MemoryStore)
    calls = of_kind(bench.store, "call", partition="c=y")
    assert len(calls) == 12
    assert of_kind(bench.store, "request", partition="c=y") == calls
    bench.store.delete(bench.keys(f"{ids.JOURNAL}c=x/"))
    bench.store.delete(bench.keys(ids.ANSWERS))
    again = await bench.run(bench.job(stages=[{**EXTRACT, "version": 2}]))
    assert sum(one.manifest.usage.calls for one in again.values() if one.manifest) == 0


async def test_a_spec_may_keep_digests_only(tmp_path: Path) -> None:
    bench = Bench(tmp_path, spec={"journal": {"requests": "digest"}})
    bench.write(rows(3))
    await bench.run()
    assert isinstance(bench.store, MemoryStore)
    assert len(of_kind(bench.store, "call", partition="file=rows.parquet")) == 3
    assert not of_kind(bench.store, *REQUESTS, partition="file=rows.parquet")
