"""Rows under `tier: batch`: whatever a graph makes of its calls, they wait, and are never taken for answered."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from schemas.parked import ParkedCall
from stages.contract import GraphStage
from stages.execution.attempt import StageOutcome
from stages.execution.guards.row_threads import RowThreads
from stages.journal.records import CallRecord, now
from stages.journal.segments import encode_segment
from stages.models.row.parking import BatchParking, earlier_calls
from tests.harness.model_server import ModelServer
from tests.stages.support import MODEL, Segments, a_context, a_graph_stage, answers, enrich, kinds

GRAPHS = "tests.stages.execution.waiting_graphs"
TEXTS = ["one", "two"]


@pytest.fixture(autouse=True)
async def row_threads() -> None:
    """The threads of a worker, which are counted by row."""
    asyncio.get_running_loop().set_default_executor(RowThreads(32))


def a_stage(graph: str, **changed: Any) -> GraphStage:
    model = {"name": MODEL, "tier": "batch"}
    return a_graph_stage({"uses": f"{GRAPHS}:{graph}", "model": model, "output": {"reply": "str"}, **changed})


def _answer_of(call: ParkedCall) -> str:
    return f"answer to {call.body['messages'][-1]['content']}"


def _record(call: ParkedCall) -> CallRecord:
    raw: dict[str, Any] = {
        "content": _answer_of(call), "additional_kwargs": {}, "response_metadata": {}, "tool_calls": [],
        "invalid_tool_calls": [], "usage_metadata": None,
    }  # fmt: skip
    return CallRecord(
        call.request, call.ordinal, call.row, call.model, orjson.dumps(raw).decode(), None, {"input": 1, "output": 1},
        0.0, None, 0, "run-1", 0, now(), f"{call.request}{call.ordinal}", by={"tier": "batch"},
    )  # fmt: skip


class Waves:
    """A batch that waits for jobs, wave by wave; the jobs answer everything."""

    def __init__(self) -> None:
        self.store = Segments()
        self.parked: list[list[ParkedCall]] = []
        self.tally_calls = 0

    async def wave(self, stage: GraphStage, texts: list[str] = TEXTS, **changed: Any) -> StageOutcome:
        number = len(self.parked)
        files = {str(at): calls for at, calls in enumerate(self.parked)}
        parking = BatchParking(number, earlier=earlier_calls(files, number), **changed)
        context = a_context(self.store, parking=parking)
        outcome = await enrich(stage, texts, context)
        self.parked.append(parking.calls)
        self.tally_calls += context.tally.calls
        return outcome

    def answer(self, calls: Iterable[ParkedCall]) -> None:
        self.store.data.append(encode_segment([_record(call) for call in calls]))

    async def to_end(self, stage: GraphStage, most: int = 6) -> StageOutcome:
        for _ in range(most):
            outcome = await self.wave(stage)
            if outcome.finished:
                return outcome
            self.answer(self.parked[-1])
        raise AssertionError("the rows do not end")


@pytest.mark.parametrize(
    ("graph", "calls"),
    [
        ("catches_all", 1), ("retries", 1), ("falls_back", 1), ("gathers", 3), ("times_out", 1), ("own_loop", 2),
        ("threads", 4), ("unlike", 3),
    ],
)  # fmt: skip
async def test_parallel_calls_of_a_row_go_in_one_wave_whatever_its_code_catches(
    graph: str, calls: int, server: ModelServer
) -> None:
    waves = Waves()
    outcome = await waves.to_end(a_stage(graph))
    assert [len(calls) for calls in waves.parked] == [2 * calls, 0]
    assert kinds(outcome) == ["ok", "ok"]
    for text, answer in zip(TEXTS, answers(outcome), strict=True):
        assert answer is not None
        assert answer["reply"].count("answer to") == answer["reply"].count(text) == calls
    assert server.stats().requests == 0


async def test_steps_become_waves(server: ModelServer) -> None:
    waves = Waves()
    outcome = await waves.to_end(a_stage("steps"))
    assert [len(calls) for calls in waves.parked] == [10, 2, 0]
    assert all(answer is not None and answer["reply"].startswith("answer to conclude") for answer in answers(outcome))
    assert server.stats().requests == 0


async def test_a_row_that_asks_something_else_each_time_is_rejected_and_not_asked_twelve_times() -> None:
    waves = Waves()
    outcome = await waves.to_end(a_stage("random"))
    assert kinds(outcome) == ["not_replayable"] * 2
    assert [len(calls) for calls in waves.parked] == [2, 0]
    half = Waves()
    outcome = await half.to_end(a_stage("half_random"))
    assert kinds(outcome) == ["not_replayable"] * 2
    assert [len(calls) for calls in half.parked] == [4, 2, 0]


async def test_a_call_without_an_answer_waits_again_and_is_no_other_call() -> None:
    waves, stage = Waves(), a_stage("gathers")
    await waves.wave(stage)
    waves.answer(waves.parked[0][:4])
    outcome = await waves.wave(stage)
    assert len(waves.parked[1]) == 2
    assert {call.request for call in waves.parked[1]} < {call.request for call in waves.parked[0]}
    assert kinds(outcome).count("ok") == 1
    waves.answer(waves.parked[1])
    assert kinds(await waves.wave(stage)) == ["ok", "ok"]


async def test_after_the_deadline_calls_are_made_live_or_refused_if_the_spec_says_so(server: ModelServer) -> None:
    waves, stage = Waves(), a_stage("plain")
    await waves.wave(stage)
    refused = await waves.wave(stage, late="reject")
    assert kinds(refused) == ["job_deadline"] * 2
    live = Waves()
    await live.wave(stage)
    asked = await live.wave(stage, late="standard")
    assert kinds(asked) == ["ok", "ok"]
    assert server.stats().requests == live.tally_calls == 2


async def test_a_refused_line_of_a_job_is_the_row_s_own_error() -> None:
    waves, stage = Waves(), a_stage("plain")
    await waves.wave(stage)
    call = waves.parked[0][0]
    waves.answer(waves.parked[0][1:])
    error = {"kind": "content_filter", "message": "HTTP 400: flagged", "raw": None}
    outcome = await waves.wave(stage, refused={call.request: error})
    assert sorted(str(kind) for kind in kinds(outcome)) == ["content_filter", "ok"]


async def test_a_row_without_an_answer_is_not_stored_and_what_is_known_is_not_parked(server: ModelServer) -> None:
    live, stage = Segments(), a_stage("gathers")
    assert kinds(await enrich(stage, TEXTS, a_context(live))) == ["ok", "ok"]  # live: without parking
    assert server.stats().requests == 6
    waves = Waves()
    waves.store.data += live.data
    outcome = await waves.wave(stage, ["one", "two", "three"])
    assert kinds(outcome) == ["ok", "ok", None]
    assert len(waves.parked[0]) == 3


async def test_equal_rows_of_two_batches_both_wait(server: ModelServer) -> None:
    stage, parkings = a_stage("retries"), [BatchParking(), BatchParking()]
    first = a_context(parking=parkings[0])
    second = replace(a_context(Segments(), parking=parkings[1]), shared=first.shared)
    await asyncio.gather(enrich(stage, TEXTS, first), enrich(stage, TEXTS, second))
    assert [len(parking.calls) for parking in parkings] == [2, 2]
    assert {call.request for call in parkings[0].calls} == {call.request for call in parkings[1].calls}
    assert server.stats().requests == 0
