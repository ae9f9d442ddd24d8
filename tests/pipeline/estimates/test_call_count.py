"""What a plan counts is what a run then pays, whatever moved; where that cannot be known, its range holds it."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.estimates.call_count import CallCount, count_calls
from pipeline.estimates.row_changes import compared
from pipeline.journal.compacted import everything
from pipeline.journal.segments import Reading
from pipeline.journal.spool import Spools
from pipeline.planning.builder import decisions
from schemas.plan import RowChanges, Selection
from stages.journal.records import CallRecord
from stages.journal.segments import line_of
from tests.pipeline.jobs import EXTRACT, Bench, rows

SQL: dict[str, Any] = {"name": "some", "uses": "sql", "query": "SELECT * FROM rows WHERE level >= 2"}
SECOND: dict[str, Any] = {
    "name": "second", "uses": "extract", "model": "offline:lexical", "prompt": "{{ summary }}",
    "output": {"mood": {"type": "enum", "values": ["good", "bad"]}},
}  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path, spec={"source": {"path": "rows.parquet", "key": ["id"]}})
    bench.write(rows(20, blank=2))
    return bench


def looked(bench: Bench, **changed: Any) -> CallCount:
    job = bench.job(**changed)
    return count_calls(job, bench.store, list(decisions(job, bench.store, Selection(), bench.now())))


async def paid(bench: Bench, **changed: Any) -> int:
    published = await bench.run(bench.job(**changed))
    return sum(found.manifest.usage.calls for found in published.values() if found.manifest is not None)


async def test_the_count_is_what_a_run_then_pays(bench: Bench) -> None:
    """Each step moves one thing; the plan names it, and counts rows and calls exactly."""
    frame = rows(20, blank=2)

    async def step(reason: str, calls: int, changes: tuple[int, int, int, int], **changed: Any) -> None:
        found = looked(bench, **changed)
        (decision,) = found.decisions
        assert decision.why == reason
        assert tuple(decision.moved.model_dump().values()) == changes
        assert found.calls == (calls, calls)
        assert found.stages[0].least == calls
        assert await paid(bench, **changed) == calls

    await step("never published", 18, (20, 0, 0, 0))
    await step("up to date", 0, (0, 0, 20, 0))

    frame[5, "text"] = "Quite another text."
    bench.write(frame)
    await step("input changed: 1 row changed", 1, (0, 1, 19, 0))

    frame[6, "at"] = frame[7, "at"]
    bench.write(frame)
    await step("input changed: 1 row changed", 0, (0, 1, 19, 0))

    bench.write(pl.concat([frame[:18], rows(23)[20:]]))
    await step("input changed: 3 rows new, 2 removed", 3, (3, 0, 18, 2))

    frame = pl.concat([frame[:18], rows(23)[20:]]).with_columns(note=pl.lit("x"))
    bench.write(frame)
    await step("input changed (column `note` is new): 21 rows changed", 0, (0, 21, 0, 0))

    other = {**EXTRACT, "prompt": "Briefly: {{ text }}"}
    await step("prompt of `triage` changed", 19, (0, 0, 21, 0), stages=[other])
    await step("prompt of `triage` changed", 0, (0, 0, 21, 0))
    # The n-th equal request of a row has its answer in the journal, whatever became of the stage's fingerprint.
    await step("version of `triage` changed", 0, (0, 0, 21, 0), stages=[{**EXTRACT, "version": 2}])
    more = {**EXTRACT, "model": {"name": "offline:lexical", "params": {"a": 1}}, "prompt": "So: {{ text }}"}
    await step("version, prompt and model of `triage` changed", 19, (0, 0, 21, 0), stages=[more])


async def test_equal_rows_are_asked_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, spec={"limits": {"batch_rows": 4}})
    frame = pl.concat([rows(5), rows(5), rows(3)])
    bench.write(frame)
    assert looked(bench).calls == (5, 5)
    assert await paid(bench) == 5
    bench.write(pl.concat([frame[1:], rows(1), rows(1)]))
    found = looked(bench)
    assert found.changes == RowChanges(new=1, unchanged=13)
    assert found.calls == (0, 0)


@pytest.mark.parametrize("changed", [1, 5])
async def test_a_batch_whose_rows_are_all_known_stands_beside_one_whose_are_not(tmp_path: Path, changed: int) -> None:
    bench = Bench(tmp_path, spec={"limits": {"batch_rows": 4}})
    frame = rows(8)
    bench.write(frame)
    assert await paid(bench) == 8
    frame[changed, "text"] = "Quite another text."
    bench.write(frame)
    assert looked(bench).calls == (1, 1)
    assert await paid(bench) == 1


async def test_later_stages_have_ranges_that_hold_what_is_paid(bench: Bench) -> None:
    stages = [EXTRACT, SQL, SECOND]
    found = looked(bench, stages=stages)
    assert found.stages[0].calls == (18, 18)
    low, high = found.stages[1].calls
    assert (low, high) == (0, 18)
    calls = await paid(bench, stages=stages)
    assert found.calls[0] <= calls <= found.calls[1]
    # Now the first stage's answers are known, so what the second would be asked is too.
    again = [EXTRACT, SQL, {**SECOND, "prompt": "Well: {{ summary }}"}]
    found = looked(bench, stages=again)
    assert found.stages[0].calls == (0, 0)
    assert found.calls[0] == found.calls[1] == await paid(bench, stages=again)


async def test_a_later_stage_over_source_columns_is_counted_exactly_where_no_row_can_leave(bench: Bench) -> None:
    second = {**SECOND, "prompt": "{{ text }}"}
    kept = [{**EXTRACT, "on_reject": "null"}, second]
    assert looked(bench, stages=kept).calls == (36, 36)
    assert looked(bench, stages=[EXTRACT, second]).calls == (18, 36)
    assert await paid(bench, stages=kept) == 36


async def test_what_comes_after_the_last_stage_that_asks_is_not_followed(bench: Bench) -> None:
    stages = [EXTRACT, SQL]
    assert looked(bench, stages=stages).calls == (18, 18)
    assert await paid(bench, stages=stages) == 18


async def test_rows_that_reject_themselves_take_no_call(bench: Bench) -> None:
    stages = [{**EXTRACT, "when_empty": "reject"}]
    assert looked(bench, stages=stages).calls == (18, 18)
    assert await paid(bench, stages=stages) == 18


def test_rows_are_compared_by_identity_and_occurrence() -> None:
    def index(*pairs: tuple[str, str | None]) -> pl.DataFrame:
        rows = pl.DataFrame(pairs, schema={"row_id": pl.String, "content": pl.String}, orient="row")
        return rows.with_columns(filtered=pl.lit(value=False))

    before = index(("a", "1"), ("a", "1"), ("b", "2"), ("c", "3"))
    now = index(("a", "1"), ("b", "9"), ("d", "4"), ("a", "1"), ("a", "1"))
    assert compared(before, now) == RowChanges(new=2, changed=1, unchanged=2, removed=1)
    left_out = now.with_columns(filtered=pl.lit(value=True))
    unnoted = index(("a", None), ("b", None))
    assert compared(unnoted, now) == RowChanges(new=3, changed=2, unchanged=0, removed=0)
    assert compared(unnoted, left_out) == RowChanges(new=3, changed=0, unchanged=2, removed=0)


async def test_rows_that_are_exploded_are_counted_by_their_parts(bench: Bench) -> None:
    """Also those of which an earlier stage's answer is not known yet."""
    words = [f"first {at}|second {at}|third {at}".split("|") for at in range(20)]
    bench.write(rows(20, blank=2).with_columns(pl.Series("parts", words)))
    explode = {"name": "parts", "uses": "explode", "with": {"column": "parts"}}
    read = {**SECOND, "prompt": "{{ parts }}"}
    low, high = looked(bench, stages=[EXTRACT, explode, read]).calls
    assert low <= 18 + 60 <= high
    assert await paid(bench, stages=[EXTRACT, explode, read]) == 18 + 60


ASKS_TWICE = """
from typing import TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime


class State(TypedDict, total=False):
    text: str
    summary: str


async def ask(state: State, runtime: Runtime) -> State:
    answer = await runtime.context["model"].ainvoke("Summarize: " + state["text"])
    return {"summary": str(answer.content)}


async def again(state: State, runtime: Runtime) -> State:
    answer = await runtime.context["model"].ainvoke("SECOND " + state["summary"])
    return {"summary": str(answer.content)}


class Context(TypedDict, total=False):
    model: object


builder = StateGraph(State, context_schema=Context)
builder.add_node("ask", ask)
builder.add_node("again", again)
builder.add_edge(START, "ask")
builder.add_edge("ask", "again")
builder.add_edge("again", END)
graph = builder.compile()
"""


async def test_a_users_graph_whose_code_changed_is_replayed_from_the_journal(bench: Bench) -> None:
    def of(name: str, source: str) -> dict[str, Any]:
        (bench.base / f"{name}.py").write_text(source)
        return {
            "name": "own", "uses": f"{name}:graph", "model": "offline:lexical", "inputs": {"text": "text"},
            "output": {"summary": "str"},
        }  # fmt: skip

    bench.write(rows(20))
    first = of("asks_twice_one", ASKS_TWICE)
    low, high = looked(bench, stages=[first]).calls
    assert low <= 40 <= high
    assert await paid(bench, stages=[first]) == 40

    renamed = of("asks_twice_two", ASKS_TWICE.replace("answer", "found"))
    assert looked(bench, stages=[renamed]).calls == (0, 0)
    assert await paid(bench, stages=[renamed]) == 0

    changed = of("asks_twice_three", ASKS_TWICE.replace("SECOND", "Once more:"))
    low, high = looked(bench, stages=[changed]).calls
    assert 20 == low <= high, "the first call of each row is known, the second is not"
    assert await paid(bench, stages=[changed]) == 20

    raising = of("asks_twice_four", ASKS_TWICE.replace('{"summary": str(answer.content)}', '{"summary": 1 / 0}'))
    assert looked(bench, stages=[raising]).calls == (0, 0), "each row is rejected after its first call"


async def test_what_a_killed_process_of_this_machine_had_answered_is_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TANDEM_SPOOL", str(tmp_path / "spools"))
    twin = Bench(tmp_path, spec={**bench.spec, "sink": {"path": "twin"}})
    await paid(twin)
    (chunk,) = everything(twin.store, "file=rows.parquet", ["kind", "body"], Reading())
    bodies = chunk.filter(pl.col("kind").is_in(["call", "row"]))["body"].to_list()
    spool = Spools(tmp_path / "spools").open(bench.store.uri, "killed", "file=rows.parquet", 0)
    for body in bodies:
        spool.write(line_of(body))
    assert looked(bench).calls == (18, 18), "the process lives"
    spool.close(whole=False)
    assert looked(bench).calls == (0, 0)
    assert looked(bench).calls == (0, 0), "a plan leaves it where it is"


async def test_records_of_one_batch_are_objects_at_a_time(tmp_path: Path) -> None:
    """However many a partition has: a million rows of two stages have four million."""
    bench = Bench(tmp_path, spec={"stages": [EXTRACT, SECOND], "limits": {"batch_rows": 10}})
    bench.write(rows(200))
    await bench.one()
    job = bench.job(stages=[EXTRACT, {**SECOND, "system": "Be brief."}])
    decided = list(decisions(job, bench.store, Selection(), bench.now()))

    def objects() -> int:
        gc.collect()
        return sum(isinstance(one, CallRecord) for one in gc.get_objects())

    before, held = objects(), list[int]()
    found = count_calls(job, bench.store, decided, note=lambda rows: held.append(objects() - before))
    assert found.calls == (200, 200)
    assert max(held) <= 2 * 10 * 2
