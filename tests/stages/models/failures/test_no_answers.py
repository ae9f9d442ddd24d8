"""A success that holds no answer is tried again; a row that alone is never answered is rejected; all are an outage."""

import asyncio

import pytest

from stages.models.failures.errors import Waiting
from tests.harness.model_server import ModelServer
from tests.stages.support import Segments, a_context, an_extract, enrich, kinds

EMPTY = {"action": "text", "text": ""}


@pytest.mark.parametrize("action", ["malformed", "empty_choices", "wrong_content_type"])
async def test_a_row_that_alone_is_never_answered_is_rejected_and_the_others_are_not(
    server: ModelServer, action: str
) -> None:
    server.script({"rules": [{"match": "poison", "action": action}]})
    outcome = await enrich(an_extract(), [f"row {at}" for at in range(9)] + ["poison"])
    assert kinds(outcome)[:-1] == ["ok"] * 9
    assert kinds(outcome)[-1] in ("malformed_response", "empty_answer")
    assert server.stats().requests == 9 + 5


async def test_what_all_answer_so_is_an_outage_and_nobody_is_rejected(server: ModelServer) -> None:
    server.script({"rules": [EMPTY]})
    segments = Segments()
    async with asyncio.timeout(60):
        outcome = await enrich(an_extract(), [f"row {at}" for at in range(12)], a_context(segments))
    assert isinstance(outcome.stopped, Waiting)
    assert kinds(outcome) == [None] * 12


async def test_several_such_rows_at_the_end_of_a_run_are_rejected_in_the_end(server: ModelServer) -> None:
    """They look like an outage, as nobody else asks any more."""
    stage, segments = an_extract(), Segments()
    await enrich(stage, ["good"], a_context(segments))
    server.script({"rules": [{"match": "poison", **EMPTY}]})
    rows = ["poison one", "poison two", "poison three"]
    found: list[str | None] = []
    for _ in range(30):
        stage.limiter._queue._breaker.probe_at = -1.0  # the workflow has waited
        found = kinds(await enrich(stage, rows, a_context(segments)))
        if None not in found:
            break
    assert found == ["empty_answer"] * 3
