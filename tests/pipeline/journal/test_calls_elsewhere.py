"""A call is paid once in a dataset, whichever row, stage or pipeline asks it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.estimates.call_count import count_calls
from pipeline.journal.answers.calls import CallFinder, _Calls
from pipeline.journal.answers.index import AnswerIndex
from pipeline.journal.answers.index_files import found_frame
from pipeline.journal.compacted import everything
from pipeline.journal.segments import Reading
from pipeline.planning.builder import decisions
from pipeline.planning.known_answers import index_answers, other_journals
from pipeline.stores import MemoryStore
from schemas import ids
from schemas.plan import Selection
from stages.journal.records import CallKey, CallRecord, Record, VoidRecord
from stages.journal.segments import encode_segment
from tests.pipeline.jobs import EXTRACT, Bench, rows


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Rows without a key: an edit of any column makes another row of it."""
    return Bench(tmp_path, spec={"partition": {"by": "column", "column": "c"}})


def frame(*parts: str, note: str = "") -> pl.DataFrame:
    return rows(12).with_columns(c=pl.Series(list(parts) * (12 // len(parts))), note=pl.lit(note))


async def paid(bench: Bench, **changed: Any) -> int:
    job = bench.job(**changed)
    index_answers(job, bench.store)
    published = await bench.run(job)
    return sum(one.manifest.usage.calls for one in published.values() if one.manifest is not None)


async def test_a_call_is_found_by_its_request_where_row_and_stage_are_others(bench: Bench) -> None:
    bench.write(frame("x"))
    assert await paid(bench) == 12
    # Every row has another identity, is in another partition, and its stage another fingerprint.
    bench.write(frame("y", "z", note="edited"))
    assert await paid(bench, stages=[{**EXTRACT, "version": 2}]) == 0
    bench.store.delete(bench.keys(ids.ANSWERS))
    bench.store.delete(bench.keys(f"{ids.JOURNAL}c=x/"))
    assert await paid(bench, stages=[{**EXTRACT, "version": 3}]) == 0, "what was found is in their own journals"


async def test_fresh_asks_again(bench: Bench) -> None:
    bench.write(frame("x"))
    assert await paid(bench) == 12
    bench.write(frame("y", note="edited"))
    published = await bench.run(bench.job(stages=[{**EXTRACT, "version": 2}]), fresh=True, reprocess="all")
    assert sum(one.manifest.usage.calls for one in published.values() if one.manifest) == 12


async def test_an_index_that_is_merged_while_a_batch_runs_loses_no_call(bench: Bench) -> None:
    bench.write(frame("x"))
    assert await paid(bench) == 12
    store = bench.store
    finder = CallFinder.of(other_journals(bench.job(), store))
    assert finder is not None
    chunks = everything(store, "c=x", ["kind", "key"], Reading())
    digest = next(key for chunk in chunks for kind, key in chunk.iter_rows() if kind == "call")
    assert finder.may_have([digest])
    for number in range(7):  # the eighth file of a level is merged with the others, which are deleted
        AnswerIndex(store).add({f"c={number}": (0, 1)}, found_frame([]))
    assert [record.key for record in await finder.find([(digest, 0)])] == [(digest, 0)]


def call(request: str, *, ordinal: int = 0, at: float = 1.0, raw: str | None = "{}") -> CallRecord:
    return CallRecord(
        request, ordinal, "id", "m", raw, None, {}, 0.0, None, 0, "run-1", 0, at, f"{request}{ordinal}{at}"
    )


def test_a_voided_call_and_one_of_unknown_outcome_are_none() -> None:
    store = MemoryStore("voids")
    void = VoidRecord("s", "r", "id", (("b", 0),), "run-2", 2.0)
    records: list[Record] = [call("a"), call("a", at=0.5), call("b"), call("c", raw=None), call("d", ordinal=1), void]
    store.put(ids.journal_segment("c=x", "run-1", 0, "n"), encode_segment(records))
    calls = _Calls.read(store, "c=x")

    def found(*key: Any) -> float | None:
        wanted: CallKey = key
        record = calls.find(wanted)
        return None if record is None else record.at

    assert found("a", 0) == 0.5, "the first answer counts"
    assert [found("b", 0), found("c", 0), found("d", 0), found("a", 1)] == [None] * 4
    assert found("d", 1) == 1.0


async def test_a_plan_counts_the_calls_that_are_found_by_their_request(bench: Bench) -> None:
    bench.write(frame("x"))
    assert planned(bench) == (12, 12)
    assert await paid(bench) == 12
    again: dict[str, Any] = {"stages": [{**EXTRACT, "version": 2}]}
    bench.write(pl.concat([frame("y", "z", note="edited"), rows(20)[12:].with_columns(c=pl.lit("z"), note=pl.lit(""))]))
    assert planned(bench, **again) == (8, 8)
    assert not bench.keys(ids.JOURNAL + "c=y"), "a plan writes no answers"
    assert await paid(bench, **again) == 8
    assert planned(bench, **again) == (0, 0)


def planned(bench: Bench, **changed: Any) -> tuple[int, int]:
    job = bench.job(**changed)
    decided = list(decisions(job, bench.store, Selection(), bench.now()))
    return count_calls(job, bench.store, decided).calls
