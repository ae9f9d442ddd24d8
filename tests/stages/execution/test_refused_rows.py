"""Twenty rows that differ, refused alike before one was answered: the stage is refused, and nothing is rejected."""

import asyncio
from typing import Any

import pytest

from schemas.errors import FatalModelError
from stages.journal.records import RowRecord
from tests.harness.model_server import ModelServer
from tests.stages.support import Segments, a_context, an_extract, enrich, kinds, until

ROWS = [f"row {at}" for at in range(30)]


def refusing(match: str, message: str, status: int = 400) -> dict[str, Any]:
    return {"match": match, "action": "error", "status": status, "body": {"error": {"message": message}}}


@pytest.mark.parametrize("status", [400, 422])
async def test_a_stage_whose_first_rows_are_all_refused_alike_stops_the_run(server: ModelServer, status: int) -> None:
    server.script({"rules": [refusing("*", "tools[0] is wrong, request req_8f3a at 12:01", status)]})
    segments, stage = Segments(), an_extract()
    outcome = await enrich(stage, [f"row {at}" for at in range(90)], a_context(segments))
    assert isinstance(outcome.stopped, FatalModelError)
    assert "stage stage0: the provider refused the first 20 rows alike" in outcome.stopped.message
    assert "tools[0] is wrong" in outcome.stopped.message
    assert server.stats().requests <= 20 + 10  # rows let in before it was known
    assert [record for record in segments.records if isinstance(record, RowRecord)] == []
    server.reset()
    assert kinds(await enrich(stage, ROWS, a_context(segments))) == ["ok"] * 30


async def test_they_are_counted_over_batches(server: ModelServer) -> None:
    server.script({"rules": [refusing("*", "broken")]})
    stage = an_extract()
    first = await enrich(stage, ROWS[:10])
    assert kinds(first) == ["bad_request"] * 10
    assert isinstance((await enrich(stage, ROWS[10:])).stopped, FatalModelError)


async def test_a_batch_at_work_while_another_one_finds_the_stage_refused_rejects_none(server: ModelServer) -> None:
    """Its own rows are too few for a verdict: counted before the others', and alone."""
    server.script({"rules": [refusing("row 9", "broken") | {"latency_ms": 1500}, refusing("*", "broken")]})
    stage, segments = an_extract(), Segments()
    at_work = asyncio.create_task(enrich(stage, ROWS[:10], a_context(segments)))
    await until(lambda: server.stats().by_status.get(400, 0) == 9)  # the last row is at work
    assert isinstance((await enrich(stage, ROWS[10:])).stopped, FatalModelError)
    assert isinstance((await at_work).stopped, FatalModelError)
    assert [record for record in segments.records if isinstance(record, RowRecord)] == []


@pytest.mark.parametrize(
    "rules",
    [
        [{"match": "row 3", "action": "text", "text": '{"word": "x", "level": 1}'}, refusing("*", "broken")],
        [refusing("row 5", "another thing"), refusing("*", "broken")],
        [{"action": "error", "code": "context_length_exceeded"}],
        [{"action": "error", "code": "content_filter", "status": 400}],
    ],
)  # fmt: skip
async def test_otherwise_it_is_the_rows_that_are_rejected(server: ModelServer, rules: list[dict[str, Any]]) -> None:
    server.script({"rules": rules})
    outcome = await enrich(an_extract(), ROWS)
    assert outcome.finished
    assert kinds(outcome).count("ok") == (rules[0].get("match") == "row 3")


async def test_a_batch_counts_rejected_rows_and_calls_made_again_by_class(server: ModelServer) -> None:
    limited = {"match": "row 7", "action": "error", "status": 429, "headers": {"Retry-After": "0"}, "times": 2}
    server.script({"rules": [refusing("row 5", "no"), limited]})
    context = a_context(Segments())
    outcome = await enrich(an_extract(), ["row 5", "row 5", "row 7", "row 9"], context)
    assert kinds(outcome) == ["bad_request", "bad_request", "ok", "ok"]
    assert context.tally.rejects == {"bad_request": 2}
    assert context.tally.failed_calls == {"rate_limited": 2}


async def test_equal_and_blank_rows_do_not_count(server: ModelServer) -> None:
    server.script({"rules": [refusing("*", "broken")]})
    outcome = await enrich(an_extract(), ["the same"] * 30 + [None, " "] + ROWS[:15])
    assert outcome.finished
    assert kinds(outcome).count("bad_request") == 45


async def test_an_answer_of_an_earlier_attempt_counts_as_one(server: ModelServer) -> None:
    segments = Segments()
    await enrich(an_extract(), ROWS[:1], a_context(segments))
    server.script({"rules": [refusing("*", "broken")]})
    assert kinds(await enrich(an_extract(), ROWS, a_context(segments))).count("bad_request") == 29
