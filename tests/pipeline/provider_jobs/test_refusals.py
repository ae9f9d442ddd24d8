"""A job that is refused as a whole is understood: what is at fault is rejected, and everything else is asked."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from pipeline.forgetting.identities import Identities
from pipeline.forgetting.parked_calls import remove_parked
from pipeline.provider_jobs.answers import Answering
from pipeline.provider_jobs.collection import collect, refused_calls
from pipeline.provider_jobs.forming import form_jobs
from pipeline.provider_jobs.learned import load_limits, save_limits
from pipeline.provider_jobs.providers.http import answers_in
from pipeline.provider_jobs.submission import submit
from pipeline.stores.memory import MemoryStore
from schemas import ids
from schemas.jobs import LearnedLimits, Submitted
from stages.models.wires.jobs import anthropic, bedrock, gemini, openai
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
    a_job,
    calls,
    over,
    park,
    some,
    submitted,
    through,
    to_the_end,
)


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


async def test_a_line_at_fault_is_that_of_what_was_sent(model_server: ModelServer) -> None:
    """A row before it was forgotten once the job was formed, so that its call is in no line."""
    store, model, client = MemoryStore(), OPENAI.model(model_server), OPENAI.client(model_server)
    model_server.script({"jobs": {"refuse_line": "Say 3."}})
    parked = some(model, OPENAI, range(6))
    (job,) = form_jobs(store, RUN, POOL, [park(store, "day=1", 0, parked)], client=client, closing=True).jobs
    remove_parked(store, Identities(frozenset((parked[1].row,))))
    await over(store, job, client)
    end = await collect(store, RUN, POOL, job, client, OPENAI.backend())
    assert (end.refused, end.given_back) == (1, 4)
    assert list(refused_calls(store, RUN, "day=1")) == [(parked[3].request, 0)]


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


async def test_a_job_that_nobody_collected_fills_no_queue_for_ever(model_server: ModelServer) -> None:
    """Its run was killed days ago, and goes on without it."""
    store, client = MemoryStore(), OPENAI.client(model_server)
    job = a_job(store, OPENAI, model_server)
    done = Submitted(id=(await submitted(store, job, client)).id, at=time.time() - 4 * 86_400)
    store.put(ids.job_submitted(RUN, POOL, job), done.model_dump_json().encode())
    save_limits(store, RUN, POOL, LearnedLimits(tokens=1))
    key = park(store, "day=2", 0, some(OPENAI.model(model_server), OPENAI, range(10, 11)))
    (other,) = form_jobs(store, RUN, POOL, [key], client=client, closing=True).jobs
    assert (await submit(store, RUN, POOL, other, client, patience=QUICK)).state == "queued"


async def test_one_request_that_is_too_large_for_a_job_is_rejected(model_server: ModelServer) -> None:
    """There is nothing to halve any more: the row has the provider's reason."""
    store, client = MemoryStore(), OPENAI.client(model_server)
    model_server.script({"jobs": {"max_bytes": 10}})
    job = a_job(store, OPENAI, model_server, 1)
    assert (await over(store, job, client)).state == "failed"
    end = await collect(store, RUN, POOL, job, client, OPENAI.backend())
    assert (end.refused, end.given_back) == (1, 0)
    (error,) = refused_calls(store, RUN, "day=1").values()
    assert "too large" in error["message"]


@pytest.mark.parametrize("wire", [openai, anthropic, gemini, bedrock], ids=["OpenAI", "Anthropic", "Gemini", "Bedrock"])
async def test_odd_lines_of_results_are_left_out_and_the_others_are_read(wire: Any, tmp_path: Path) -> None:
    """Servers that speak a provider's protocol send such ones: each request of one counts as missing."""
    odd = [
        b"", b"{", b"[]", b"null", b'"text"', b'{"custom_id": "a", "recordId": "a", "key": "a", "error": "no"}',
        b'{"custom_id": "b", "response": {}}', b'{"custom_id": "b", "response": "no"}', b'{"custom_id": "b"}',
        b'{"custom_id": "c", "result": {"type": "errored"}}', b'{"custom_id": "c", "result": null}', b"\xff\xfe",
    ]  # fmt: skip
    good = {
        "custom_id": "good", "key": "good", "recordId": "good",
        "response": {"status_code": 200, "body": {"x": 1}}, "result": {"type": "succeeded", "message": {"x": 1}},
        "modelOutput": {"x": 1},
    }  # fmt: skip
    path = tmp_path / "results.jsonl"
    path.write_bytes(b"\n".join([*odd, orjson.dumps(good), *odd]))
    found = [answer async for answer in answers_in(path, wire.answer_of)]
    assert [answer.status for answer in found if answer.custom_id == "good"] == [200]


async def test_an_answer_that_is_no_object_is_asked_again(model_server: ModelServer) -> None:
    store, client = MemoryStore(), ANTHROPIC.client(model_server)
    job = a_job(store, ANTHROPIC, model_server, 1)
    await over(store, job, client)
    results = client.results

    async def odd(id: str, folder: Path) -> AsyncIterator[JobAnswer]:
        async for answer in results(id, folder):
            yield replace(answer, body="no object")  # type: ignore[arg-type]

    client.results = odd  # type: ignore[method-assign]
    end = await collect(store, RUN, POOL, job, client, ANTHROPIC.backend())
    assert (end.answered, end.given_back) == (0, 1)
