"""A job that is refused as a whole is understood: what is at fault is rejected, and everything else is asked."""

from __future__ import annotations

import pytest

from pipeline.provider_jobs.answers import Answering
from pipeline.provider_jobs.collection import collect, refused_calls
from pipeline.provider_jobs.forming import form_jobs
from pipeline.provider_jobs.learned import load_limits
from pipeline.provider_jobs.submission import submit
from pipeline.stores.memory import MemoryStore
from stages.models.wires.http import close_session
from stages.models.wires.jobs.form import JobAnswer
from tests.harness.model_server import ModelServer
from tests.pipeline.provider_jobs.support import (
    ANTHROPIC,
    GEMINI,
    NAMED,
    OPENAI,
    POOL,
    QUICK,
    RUN,
    Case,
    calls,
    over,
    park,
    some,
    submitted,
    through,
    to_the_end,
)


@pytest.fixture(autouse=True)
async def _sessions() -> object:
    yield
    await close_session()


@pytest.mark.parametrize("case", [OPENAI, ANTHROPIC], ids=["OpenAI", "Anthropic"])
async def test_a_line_at_fault_is_rejected_and_the_rest_goes_with_another_job(
    case: Case, model_server: ModelServer
) -> None:
    """The row of the line has the provider's reason; nothing was submitted of the refused job."""
    store, model, client = MemoryStore(), case.model(model_server), case.client(model_server)
    model_server.script({"jobs": {"refuse_line": "Say 3."}})
    parked = some(model, case, range(6))
    ends = await to_the_end(store, [park(store, "day=1", 0, parked)], client, case.backend())
    assert [(end.state, end.answered, end.refused, end.given_back) for end in ends] == [
        ("failed", 0, 1, 5),
        ("ended", 5, 0, 0),
    ]
    (error,) = refused_calls(store, RUN, "day=1").values()
    assert (error["kind"], error["status"]) == ("bad_request", 400)
    assert "Invalid value in request 4" in error["message"]
    assert {record.id for record in calls(store, "day=1")} == {call.row for call in parked if call is not parked[3]}
    assert model_server.jobs()["most_submitted"] == 1


async def test_an_answer_that_pauses_is_rejected_and_was_billed(model_server: ModelServer) -> None:
    """A job has one turn for each request; half of an answer is none."""
    model, client = ANTHROPIC.model(model_server), ANTHROPIC.client(model_server)
    (call,) = some(model, ANTHROPIC, [0])
    body = {"content": [{"type": "text", "text": "Hm."}], "stop_reason": "pause_turn",
            "usage": {"input_tokens": 9, "output_tokens": 2}}  # fmt: skip
    answering = Answering(client, ANTHROPIC.backend(), RUN, "job", "msgbatch_1", 0.0, False, lambda call: 0)
    outcome = answering.outcome(call, 0, JobAnswer("id", 200, body), 99)
    assert outcome.refused is not None
    assert outcome.refused["kind"] == "endless_answer"
    assert outcome.record is not None
    assert outcome.record.error is not None


async def test_a_refusal_that_names_no_line_stops_the_run(model_server: ModelServer) -> None:
    """Which row is at fault cannot be known, and guessing would cost a job for every guess."""
    store, model, client = MemoryStore(), GEMINI.model(model_server), GEMINI.client(model_server)
    model_server.script({"jobs": {"refuse_line": "Say 3."}})
    (end,) = await through(store, [park(store, "day=1", 0, some(model, GEMINI, range(4)))], client, GEMINI.backend())
    assert (end.given_back, end.refused) == (4, 0)
    assert "refused a whole job (Invalid value in request 4.)" in end.fatal
    assert end.hint


@pytest.mark.parametrize("case", NAMED.values(), ids=NAMED)
async def test_a_job_that_is_too_large_is_halved_until_it_fits(case: Case, model_server: ModelServer) -> None:
    """The size is learned: the next jobs are as small, and nothing is lost."""
    store, model, client = MemoryStore(), case.model(model_server), case.client(model_server)
    model_server.script({"jobs": {"max_requests": 3}})
    ends = await to_the_end(store, [park(store, "day=1", 0, some(model, case, range(8)))], client, case.backend())
    assert sum(end.answered for end in ends) == 8
    assert [end.requests for end in ends] == [8, 3, 3, 2]  # half of its bytes, which its frame is part of
    assert load_limits(store, RUN, POOL).requests == 4
    assert model_server.jobs()["most_submitted"] == 1


@pytest.mark.parametrize("case", NAMED.values(), ids=NAMED)
async def test_a_full_queue_is_waited_for(case: Case, model_server: ModelServer) -> None:
    """While another job fills the queue nothing more is submitted; when it is over, all is answered."""
    other, store = MemoryStore(), MemoryStore()
    model, client = case.model(model_server), case.client(model_server)
    rows = some(model, case, range(100, 104))
    size = sum(len(client.line("", call.body)) for call in rows) // 4
    model_server.script({"jobs": {"run_s": 0.5, "enqueued_tokens": size}})
    (first,) = form_jobs(other, RUN, POOL, [park(other, "day=1", 0, rows)], client=client, closing=True).jobs
    await submitted(other, first, client)
    ends = await to_the_end(store, [park(store, "day=1", 0, some(model, case, range(3)))], client, case.backend())
    assert sum(end.answered for end in ends) == 3
    assert model_server.jobs()["most_submitted"] == 1


async def test_a_learned_number_of_tokens_is_not_exceeded(model_server: ModelServer) -> None:
    """What is out is counted: a job that would not fit is not even uploaded."""
    store, model, client = MemoryStore(), OPENAI.model(model_server), OPENAI.client(model_server)
    model_server.script({"jobs": {"enqueued_tokens": 1}})
    key = park(store, "day=1", 0, some(model, OPENAI, range(4)))
    (end,) = await through(store, [key], client, OPENAI.backend())
    assert end.given_back == 4
    assert load_limits(store, RUN, POOL).tokens == 1
    model_server.script({"jobs": {"run_s": 3600}})
    first, *rest = form_jobs(store, RUN, POOL, end.again, client=client, closing=True).jobs
    assert len(rest) == 3
    assert (await submitted(store, first, client)).id
    files = model_server.jobs()["files"]
    for job in rest:
        assert (await submit(store, RUN, POOL, job, client, patience=QUICK)).state == "waiting"
    assert model_server.jobs()["files"] == files


async def test_one_request_that_is_too_large_for_a_job_is_rejected(model_server: ModelServer) -> None:
    """There is nothing to halve any more: the row has the provider's reason."""
    store, model, client = MemoryStore(), OPENAI.model(model_server), OPENAI.client(model_server)
    model_server.script({"jobs": {"max_bytes": 10}})
    key = park(store, "day=1", 0, some(model, OPENAI, range(1)))
    (job,) = form_jobs(store, RUN, POOL, [key], client=client, closing=True).jobs
    assert (await over(store, job, client)).state == "failed"
    end = await collect(store, RUN, POOL, job, client, OPENAI.backend())
    assert (end.refused, end.given_back) == (1, 0)
    (error,) = refused_calls(store, RUN, "day=1").values()
    assert "too large" in error["message"]
