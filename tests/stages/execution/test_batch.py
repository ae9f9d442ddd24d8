"""One graph stage over one batch: every row one outcome, joined by what it holds, whatever happens around it."""

import asyncio
import gc
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import RowError, StoreError
from stages.contract import Answered, GraphStage
from stages.execution.batch import run_graph_stage
from stages.execution.equal_rows import recent_answers
from stages.execution.equal_rows.single_flight import Shared
from stages.journal.records import CallRecord, RowRecord
from stages.models.settings.choice import ModelServices
from tests.harness.model_server import ModelServer
from tests.stages.support import Segments, a_context, an_extract, answers, enrich, kinds, until


def offline(**given: Any) -> GraphStage:
    return an_extract(model="offline:lexical", **given)


def with_prepare(stage: GraphStage, prepare: Any) -> GraphStage:
    object.__setattr__(stage, "prepare", prepare)
    return stage


@pytest.fixture
def _without_collections() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_without_collections")
async def test_the_records_of_a_batch_are_freed_as_it_ends() -> None:
    context = a_context()
    outcome = await enrich(offline(), ["one", "two"], context)
    seen = weakref.ref(context.journal.known)
    assert kinds(outcome) == ["ok", "ok"]
    del context
    await asyncio.sleep(0)
    assert seen() is None, "no cycle holds them until a full collection"


@given(st.lists(st.sampled_from(["a", "b", "c", "poison", None]), max_size=30))
@settings(max_examples=40, deadline=None)
def test_every_row_has_the_one_record_that_belongs_to_its_value(texts: list[str | None]) -> None:
    ran: Counter[str | None] = Counter()

    def prepare(row: dict[str, Any]) -> Answered:
        ran[row["text"]] += 1
        if row["text"] == "poison":
            raise RowError("no", kind="poison")
        return Answered({"word": f"of {row['text']}", "level": 1})

    outcome = asyncio.run(enrich(with_prepare(offline(), prepare), texts))
    assert outcome.finished
    assert outcome.stopped is None
    expected = [None if text == "poison" else {"word": f"of {text}", "level": 1} for text in texts]
    assert answers(outcome) == expected
    assert set(ran.values()) <= {1}  # equal rows share one run


async def test_rows_are_told_of_as_they_finish_each_once() -> None:
    store, told = Segments(), [0]

    def count(rows: int) -> None:
        told[0] += rows

    await enrich(offline(), ["a", "b"], a_context(store))
    await enrich(offline(), ["a", "a", "c", "c", "c", "b"], a_context(store, run="run-2", on_row=count))
    assert told == [6]


async def test_one_poison_row_harms_no_other(server: ModelServer) -> None:
    server.script({"rules": [{"match": "poison", "action": "error", "status": 400}]})
    texts = [f"row {at}" for at in range(40)]
    texts[17] = "poison"
    outcome = await enrich(an_extract(), texts)
    assert [at for at, kind in enumerate(kinds(outcome)) if kind != "ok"] == [17]
    assert server.stats().requests == 40


async def test_an_empty_batch_and_a_stage_that_reads_nothing(server: ModelServer) -> None:
    assert (await enrich(an_extract(), [])).records == []
    outcome = await enrich(an_extract(prompt="the same for all"), ["a", "b", "c"])
    assert kinds(outcome) == ["ok"] * 3
    assert server.stats().requests == 1


async def test_known_answers_cost_nothing_and_known_rejects_stay(server: ModelServer) -> None:
    server.script({"rules": [{"match": "poison", "action": "error", "status": 400, "times": 1}]})
    store, stage = Segments(), an_extract()
    await enrich(stage, ["a", "poison"], a_context(store))
    outcome = await enrich(stage, ["poison", "b", "a"], a_context(store, run="run-2"))
    assert kinds(outcome) == ["bad_request", "ok", "ok"]
    assert server.stats().requests == 3
    assert [record and record.run for record in outcome.records] == ["run-1", "run-2", "run-1"]


async def test_batches_that_share_a_limiter_stay_within_it_together(server: ModelServer) -> None:
    server.script({"latency_ms": 60})
    services = ModelServices()
    stages = [an_extract(services, limits={"rows_in_flight": limit}) for limit in (4, 4)]
    outcomes = await asyncio.gather(
        *(enrich(stage, [f"{at} {row}" for row in range(20)]) for at, stage in enumerate(stages))
    )
    assert all(kinds(outcome) == ["ok"] * 20 for outcome in outcomes)
    assert server.stats().max_in_flight == 4


async def test_equal_rows_of_two_batches_share_one_run_and_each_journal_has_it(server: ModelServer) -> None:
    server.script({"latency_ms": 30})
    shared, stage = Shared(), an_extract()
    stores = [Segments(), Segments()]
    contexts = [a_context(store, batch=at, shared=shared) for at, store in enumerate(stores)]
    await asyncio.gather(*(enrich(stage, ["same", "same"], context) for context in contexts))
    later = a_context(batch=2, shared=shared)
    outcome = await enrich(stage, ["same"], later)
    assert kinds(outcome) == ["ok"]
    assert server.stats().requests == 1
    rows = [[record for record in store.records if isinstance(record, RowRecord)] for store in stores]
    assert [len(found) for found in rows] == [1, 1]


async def test_rows_that_do_not_share_have_an_answer_each_which_is_known_again(server: ModelServer) -> None:
    stage, store = an_extract(share=False), Segments()
    shared = Shared()
    for run in ("run-1", "run-2"):
        for batch in (0, 1):
            frame = pl.DataFrame({"text": ["same", "same", "other"]})
            context = a_context(store, run=run, batch=batch, shared=shared)
            outcome = await run_graph_stage(stage, frame, [f"{batch}-{at}" for at in range(3)], context)
            await context.journal.close()
            assert kinds(outcome) == ["ok"] * 3
        assert server.stats().requests == 6
    parts = pl.DataFrame({"text": ["same", "same"]})
    await run_graph_stage(stage, parts, ["exploded"] * 2, a_context(store, shared=shared))
    assert server.stats().requests == 8
    assert stage.fingerprint != an_extract().fingerprint


async def test_when_the_first_of_equal_rows_is_cancelled_another_batch_goes_on(server: ModelServer) -> None:
    server.script({"latency_ms": 500})
    shared, stage = Shared(), an_extract()
    first = asyncio.create_task(enrich(stage, ["same"], a_context(batch=0, shared=shared)))
    await until(lambda: server.stats().in_flight == 1)
    others = [asyncio.create_task(enrich(stage, ["same"], a_context(batch=at, shared=shared))) for at in (1, 2)]
    await asyncio.sleep(0.05)
    first.cancel()
    outcomes = await asyncio.gather(*others)
    assert [kinds(outcome) for outcome in outcomes] == [["ok"], ["ok"]]
    assert server.stats().requests == 2
    assert not shared.rows
    assert not shared.calls


# Stopping ----------------------------------------------------------------------------------------------------------


async def test_a_drain_takes_no_new_rows_lets_those_in_flight_finish_and_flushes(server: ModelServer) -> None:
    server.script({"latency_ms": 50})
    store, drain = Segments(), asyncio.Event()
    context = a_context(store, drain=drain)
    stage = an_extract(limits={"rows_in_flight": 4})
    running = asyncio.create_task(enrich(stage, [f"row {at}" for at in range(50)], context))
    await until(lambda: server.stats().answered_ok >= 4)
    drain.set()
    outcome = await running
    assert outcome.drained
    assert not outcome.finished
    done = [kind for kind in kinds(outcome) if kind is not None]
    stats = server.stats()
    assert done == ["ok"] * stats.answered_ok
    assert stats.requests == stats.answered_ok < 20
    assert len(store.records) == 2 * stats.answered_ok
    drain.clear()
    again = await enrich(stage, [f"row {at}" for at in range(50)], a_context(store))
    assert kinds(again) == ["ok"] * 50
    assert server.stats().requests == 50


async def test_a_cancelled_batch_leaves_no_task_and_no_place_taken_and_keeps_its_answers(server: ModelServer) -> None:
    server.script({"latency_ms": 40})
    store, services = Segments(), ModelServices()
    context = a_context(store, flush_s=60, flush_records=1000)
    stage = an_extract(services, limits={"rows_in_flight": 4})
    before = asyncio.all_tasks()
    frame = pl.DataFrame({"text": [f"row {at}" for at in range(40)]})
    running = asyncio.create_task(run_graph_stage(stage, frame, list(map(str, range(40))), context))
    await until(lambda: context.tally.calls >= 6)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert asyncio.all_tasks() == before
    assert store.data == []
    await context.journal.close()
    calls = [record for record in store.records if isinstance(record, CallRecord)]
    answered = [record for record in calls if record.raw is not None]
    assert 6 <= len(answered) < 40
    assert 1 <= context.tally.unknown <= 4  # in flight when it was cancelled
    assert context.tally.unknown == len(calls) - len(answered)
    await until(lambda: server.stats().in_flight == 0)
    asked = server.stats().requests
    outcome = await asyncio.wait_for(enrich(stage, frame, a_context(store)), 20)  # all places are free again
    assert kinds(outcome) == ["ok"] * 40
    assert server.stats().requests - asked == 40 - len(answered)


async def test_a_batch_that_is_cancelled_before_its_rows_begin_gives_their_places_back() -> None:
    services = ModelServices()
    stage = offline(services=services, limits={"rows_in_flight": 1})
    frame = pl.DataFrame({"text": ["a", "b", "c"]})
    for delay in range(12):
        running = asyncio.create_task(run_graph_stage(stage, frame, ["1", "2", "3"], a_context()))
        for _ in range(delay):
            await asyncio.sleep(0.001)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert kinds(await asyncio.wait_for(enrich(stage, frame), 10)) == ["ok"] * 3


@pytest.mark.parametrize("failure", [StoreError("the bucket is away"), OSError("disk")])
async def test_a_journal_that_cannot_be_written_stops_the_batch_and_rejects_nothing(
    server: ModelServer, failure: Exception
) -> None:
    store, stage = Segments(failing=failure), an_extract(limits={"rows_in_flight": 2})
    context = a_context(store, strict=True)
    frame = pl.DataFrame({"text": [f"row {at}" for at in range(30)]})
    stopped: Exception | None
    try:
        outcome = await run_graph_stage(stage, frame, list(map(str, range(30))), context)
        stopped = outcome.stopped
        assert set(kinds(outcome)) == {None}
    except OSError as exc:
        stopped = exc  # not one of ours: raised once all rows in flight have ended
    assert stopped is failure
    paid = server.stats().answered_ok
    assert paid <= 3
    store.failing = None
    await context.journal.close()
    assert len([record for record in store.records if isinstance(record, CallRecord)]) == paid


async def test_the_worst_of_what_stops_a_batch_is_told(server: ModelServer) -> None:
    server.script(
        {"rules": [{"match": "wait", "action": "error", "status": 429, "headers": {"Retry-After": "100"}},
                   {"match": "fatal", "action": "error", "status": 401, "latency_ms": 50}]}
    )  # fmt: skip
    outcome = await enrich(an_extract(), ["fatal", "wait"])
    assert outcome.stopped is not None
    assert outcome.stopped.code == "FatalModelError"


async def test_answers_that_memory_has_no_room_for_are_still_shared(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent_answers, "_IN_MEMORY", 3)
    monkeypatch.setattr(recent_answers, "_MOVED", 1)
    shared, stage, texts = Shared(), an_extract(), [f"row {at}" for at in range(10)]
    for _ in range(2):
        await enrich(stage, texts, a_context(shared=shared))
    assert server.stats().requests == 10
    assert len(shared.recent._latest) == 3


async def test_a_record_says_who_asked_and_which_calls_led_to_it(server: ModelServer) -> None:
    store = Segments()
    await enrich(an_extract(), ["a"], a_context(store))
    [call] = [record for record in store.records if isinstance(record, CallRecord)]
    [row] = [record for record in store.records if isinstance(record, RowRecord)]
    assert (row.id, row.run, row.calls, row.shared) == ("row-0", "run-1", (call.key,), False)
    assert call.id == "row-0"


class Room:
    """Room for rows in bytes; `most` is what was held at once."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.held = self.most = 0
        self.changed = asyncio.Condition()

    async def take(self, size: int) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: self.held == 0 or self.held + size <= self.size)
            self.held += size
            self.most = max(self.most, self.held)

    def release(self, size: int) -> None:
        self.held -= size

        async def wake() -> None:
            async with self.changed:
                self.changed.notify_all()

        self.waking = asyncio.create_task(wake())


async def test_large_rows_in_flight_are_bounded_by_their_bytes() -> None:
    room = Room(100_000)
    outcome = await enrich(offline(), [f"{at} {'x' * 10_000}" for at in range(20)], a_context(memory=room))
    assert outcome.finished
    assert 0 < room.most <= 100_000
    assert room.held == 0
