"""Every provider's jobs keep the same promises: answers as of live calls, at half the price, in every journal."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from langchain_core.messages import HumanMessage

from pipeline.journal.join import collect as join_journal
from pipeline.journal.join import hashed, keys_of_batch
from pipeline.journal.known_file import records_of
from pipeline.journal.requests import requests_of
from pipeline.journal.usage import usage_of_run
from pipeline.provider_jobs import answer_files
from pipeline.provider_jobs.base import Content
from pipeline.provider_jobs.clients import client_for
from pipeline.provider_jobs.collection import collect, refused_calls
from pipeline.provider_jobs.forming import form_jobs
from pipeline.provider_jobs.polling import cancel, described, jobs_of, poll
from pipeline.stores.memory import MemoryStore
from schemas import ids
from schemas.errors import NoAnswer
from schemas.job_requests import custom_id
from schemas.jobs import Intent
from stages.journal.records import CallRecord
from stages.models.calls import message_of
from tests.harness.model_server import ModelServer
from tests.pipeline.provider_jobs.support import (
    ANTHROPIC,
    BEDROCK,
    CASES,
    GEMINI,
    NAMED,
    OPENAI,
    POOL,
    PRICE,
    RUN,
    Case,
    a_call,
    a_job,
    calls,
    message_in,
    over,
    park,
    requests,
    some,
    submitted,
    text_of,
    through,
    to_the_end,
)
from tests.stages.models.wires.referee import a_referee


async def test_geminis_jobs_have_the_version_of_live_calls(
    monkeypatch: pytest.MonkeyPatch, model_server: ModelServer
) -> None:
    """A gateway may know no other."""
    monkeypatch.setenv("GOOGLE_GENAI_API_VERSION", "beta")
    async with a_referee() as referee:
        client = client_for(GEMINI.model(model_server).model_copy(update={"base_url": referee.url}))
        assert client is not None
        referee.make = lambda body: {"name": "batches/1", "metadata": {"state": "BATCH_STATE_RUNNING"}}
        await client.status("batches/1")
        intent = Intent(job="0" * 16, digest="d", requests=1, bytes=1, prefix="x", at=0.0)
        assert await client.find(intent) is None
        await client.withdraw("files/1")
        with pytest.raises(NoAnswer):  # it names no address for the upload
            await client.upload(intent, Content(Path("x"), 1))
    assert [path for path, _, _ in referee.sent] == [
        "/v1beta/batches/1", "/v1beta/batches", "/v1beta/files/1", "/upload/v1beta/files",
    ]  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_answers_of_a_job_are_those_of_live_calls_at_half_the_price(
    case: Case, model_server: ModelServer
) -> None:
    """Equal values and usage, the tier and the job noted, cost and saving as the spec's price says."""
    store, model, client = MemoryStore(), case.model(model_server), case.client(model_server)
    key = park(store, "day=1", 3, some(model, case, range(5)))
    (end,) = await through(store, [key], client, case.backend())
    assert (end.state, end.answered, end.refused, end.given_back) == ("ended", 5, 0, 0)
    found = {record.id: record for record in calls(store, "day=1")}
    assert len(found) == 5
    paid = 0.0
    for row, call in enumerate(some(model, case, range(5))):
        record = found[call.row]
        live = message_of(await model._agenerate([HumanMessage(text_of(row))]))
        assert message_in(record).content == live.content
        assert live.usage_metadata is not None
        assert record.usage["input"] == live.usage_metadata["input_tokens"]
        assert record.usage["output"] == live.usage_metadata["output_tokens"]
        assert record.key == (call.request, 0)
        assert record.by is not None
        assert (record.by["tier"], record.by["job"]) == ("batch", end.id)
        standard = (PRICE.input * record.usage["input"] + PRICE.output * record.usage["output"]) / 1e6
        assert record.cost_usd == pytest.approx(standard / 2)
        paid += standard / 2
    assert end.cost_usd == pytest.approx(paid)
    assert end.saved_usd == pytest.approx(paid)
    assert usage_of_run(store, "day=1", RUN).cost_usd == pytest.approx(paid)


async def test_azure_asks_its_batch_deployment(model_server: ModelServer) -> None:
    """Lines name the deployment of jobs, and the path without a version, as Azure wants it."""
    case = CASES["Azure"]
    line = case.client(model_server).line("c", a_call(case.model(model_server), case, "Hi", "1").body)
    assert b'"model":"gpt-batch"' in line
    assert b'"url":"/chat/completions"' in line


@pytest.mark.parametrize("case", [CASES["Azure"], CASES["Gemini"]], ids=["Azure", "Gemini"])
async def test_a_file_that_is_still_taken_in_is_waited_for(case: Case, model_server: ModelServer) -> None:
    """No job can be created of it before: the first creation is the only one."""
    store, model, client = MemoryStore(), case.model(model_server), case.client(model_server)
    model_server.script({"jobs": {"file_s": 0.4}})
    (end,) = await through(store, [park(store, "day=1", 0, some(model, case, range(2)))], client, case.backend())
    assert end.answered == 2


async def test_what_a_job_answers_is_joined_by_open(model_server: ModelServer, tmp_path: Path) -> None:
    """The records are found by the identities of the rows, dealt to their batches, and the requests are kept."""
    store, model = MemoryStore(), OPENAI.model(model_server)
    parked = some(model, OPENAI, range(4))
    await through(store, [park(store, "day=1", 0, parked)], OPENAI.client(model_server), OPENAI.backend())
    keys = pl.concat([keys_of_batch(batch, [call.row]) for batch, call in enumerate(parked)])
    joined = join_journal([(store, "day=1")], hashed([call.row for call in parked]), tmp_path)
    files = joined.by_batch(keys.with_columns(calls=pl.lit(value=True)), tmp_path)
    assert joined.damage == []
    for batch, call in enumerate(parked):
        (record,) = records_of(files[batch].read_bytes())
        assert isinstance(record, CallRecord)
        assert record.key == (call.request, 0)
    shown = requests_of(store, "day=1", [parked[0].request])
    assert shown[parked[0].request]["messages"] == [{"role": "user", "content": text_of(0)}]
    assert len(requests(store, "day=1")) == 4


async def test_equal_requests_go_once_and_every_row_has_the_answer(model_server: ModelServer) -> None:
    """Of equal calls in two partitions, one row pays; the others have copies that count for nothing."""
    store, model = MemoryStore(), OPENAI.model(model_server)
    same = [a_call(model, OPENAI, text_of(1), row) for row in ("a", "b")]
    keys = [park(store, "day=1", 0, same), park(store, "day=2", 0, [a_call(model, OPENAI, text_of(1), "c")])]
    (end,) = await through(store, keys, OPENAI.client(model_server), OPENAI.backend())
    assert (end.requests, end.answered) == (1, 1)
    first, second = calls(store, "day=1"), calls(store, "day=2")
    assert sorted(record.carried for record in first) == [False, True]
    assert {record.id for record in first} == {call.row for call in same}
    assert [record.carried for record in second] == [True]
    assert usage_of_run(store, "day=1", RUN).calls == 1
    assert usage_of_run(store, "day=2", RUN).calls == 0
    assert model_server.jobs()["submitted"] == 1


@pytest.mark.parametrize("case", NAMED.values(), ids=NAMED)
async def test_a_file_that_comes_late_gets_its_copies(case: Case, model_server: ModelServer) -> None:
    """A partition parks what a job holds already, before and after it was collected: nothing is sent again."""
    store, model, client, backend = MemoryStore(), case.model(model_server), case.client(model_server), case.backend()
    (end,) = await through(store, [park(store, "day=1", 0, some(model, case, range(3)))], client, backend)
    late = park(store, "day=2", 0, some(model, case, range(2)))
    formed = form_jobs(store, RUN, POOL, [late], client=client, closing=True)
    assert formed.jobs == (end.job,)
    again = await collect(store, RUN, POOL, end.job, client, backend)
    assert (again.answered, again.cost_usd, again.again) == (end.answered, end.cost_usd, ())
    assert [record.carried for record in calls(store, "day=2")] == [True, True]
    assert len(calls(store, "day=1")) == 3
    assert model_server.jobs()["submitted"] == 3


async def test_a_job_that_is_collected_twice_is_paid_for_once(model_server: ModelServer) -> None:
    """The second time, after an interruption, writes the same records under the same names."""
    store, model, client = MemoryStore(), OPENAI.model(model_server), OPENAI.client(model_server)
    key = park(store, "day=1", 0, some(model, OPENAI, range(4)))
    (job,) = form_jobs(store, RUN, POOL, [key], client=client, closing=True).jobs
    await over(store, job, client)

    def dies(operation: str, key: str) -> None:
        if operation == "put" and key.endswith("ended.json"):
            raise RuntimeError("killed")

    store.fault = dies
    with pytest.raises(RuntimeError):
        await collect(store, RUN, POOL, job, client, OPENAI.backend())
    store.fault = lambda operation, key: None
    end = await collect(store, RUN, POOL, job, client, OPENAI.backend())
    assert end == await collect(store, RUN, POOL, job, client, OPENAI.backend())
    assert len(calls(store, "day=1")) == 4
    assert usage_of_run(store, "day=1", RUN).calls == 4


async def test_a_file_that_comes_while_the_job_is_collected_is_not_forgotten(model_server: ModelServer) -> None:
    """It is noted between the last record and the end: the same call of `collect` writes its copies, too."""
    store, model, client = MemoryStore(), OPENAI.model(model_server), OPENAI.client(model_server)
    key = park(store, "day=1", 0, some(model, OPENAI, range(3)))
    (job,) = form_jobs(store, RUN, POOL, [key], client=client, closing=True).jobs
    await over(store, job, client)

    def comes(operation: str, key: str) -> None:
        if operation == "put" and key.endswith("ended.json"):
            store.fault = lambda operation, key: None
            late = park(store, "day=2", 0, some(model, OPENAI, range(2)))
            assert form_jobs(store, RUN, POOL, [late], client=client, closing=True).jobs == (job,)

    store.fault = comes
    end = await collect(store, RUN, POOL, job, client, OPENAI.backend())
    assert (end.answered, len(end.late)) == (3, 1)
    assert [record.carried for record in calls(store, "day=2")] == [True, True]


async def test_a_line_that_every_other_would_share_stops_the_run(model_server: ModelServer) -> None:
    """A model that is not there, in the answers of a job: what was answered is kept, the rest given back, the reason
    and the next step are named."""
    store, model, client = MemoryStore(), OPENAI.model(model_server), OPENAI.client(model_server)
    model_server.script({"rules": [{"match": "Say 1.", "action": "error", "code": "model_not_found"}]})
    (end,) = await through(store, [park(store, "day=1", 0, some(model, OPENAI, range(3)))], client, OPENAI.backend())
    assert (end.answered, end.given_back, end.refused) == (2, 1, 0)
    assert "gpt-test: not found at the provider" in end.fatal
    assert "Check model: in the spec." in end.hint


@pytest.mark.parametrize("case", NAMED.values(), ids=NAMED)
async def test_an_answer_that_was_cut_off_is_kept_under_its_cap(case: Case, model_server: ModelServer) -> None:
    """As a live one: a later run with a larger cap asks again."""
    store, model, client = MemoryStore(), case.model(model_server), case.client(model_server)
    model_server.script({"rules": [{"match": "*", "action": "length"}]})
    (call,) = some(model, case, range(1))
    await through(store, [park(store, "day=1", 0, [call])], client, case.backend())
    assert [record.key for record in calls(store, "day=1")] == [(call.capped, 0)]


async def test_records_are_the_same_to_the_byte_whenever_they_are_written(
    model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a collection that died half way through a file is carried on without a gap, wherever its segments are cut."""
    monkeypatch.setattr(answer_files, "_SEGMENT_BYTES", 1_500)
    store, model, client = MemoryStore(), OPENAI.model(model_server), OPENAI.client(model_server)
    model_server.script({"jobs": {"keep_files": True}})  # as if it had died before that
    key = park(store, "day=1", 0, some(model, OPENAI, range(9)))
    (job,) = form_jobs(store, RUN, POOL, [key], client=client, closing=True).jobs
    await over(store, job, client)
    first = await collect(store, RUN, POOL, job, client, OPENAI.backend())
    segments = {info.key: store.get(info.key) for info in store.list(ids.journal_segments("day=1"))}
    assert len(segments) > 2
    store.delete([ids.job_ended(RUN, POOL, job), *segments])
    second = await collect(store, RUN, POOL, job, client, OPENAI.backend())
    assert second.answered == first.answered == 9
    assert {key: store.get(key) for key in segments} == segments


async def test_a_job_that_fails_without_a_word_is_not_formed_for_ever(model_server: ModelServer) -> None:
    """Each of its requests has a try less; after the fifth job their rows are rejected."""
    store, model, client = MemoryStore(), OPENAI.model(model_server), OPENAI.client(model_server)
    model_server.script({"jobs": {"fail": True}})
    parked = some(model, OPENAI, range(2))
    ends = await to_the_end(store, [park(store, "day=1", 0, parked)], client, OPENAI.backend())
    assert [end.state for end in ends] == ["failed"] * 5
    assert len(refused_calls(store, RUN, "day=1")) == 2


@pytest.mark.parametrize("case", NAMED.values(), ids=NAMED)
async def test_results_are_joined_by_custom_id_and_counted(case: Case, model_server: ModelServer) -> None:
    """Shuffled, one missing, one of a stranger: the missing one is named and asked again, and each row has its own."""
    store, model, client, backend = MemoryStore(), case.model(model_server), case.client(model_server), case.backend()
    model_server.script({"jobs": {"shuffle": True, "missing": 1, "unknown": 2}})
    (end,) = await through(store, [park(store, "day=1", 0, some(model, case, range(6)))], client, backend)
    assert (end.answered, end.given_back, end.missing, end.unknown_ids) == (5, 1, 1, 2)
    assert "1 of 6 requests have no result" in end.message
    model_server.script({})
    (second,) = await to_the_end(store, end.again, client, backend)
    assert (second.requests, second.answered) == (1, 1)
    answered = {record.id: record for record in calls(store, "day=1") if record.raw is not None}
    for row, call in enumerate(some(model, case, range(6))):
        assert message_in(answered[call.row]).content == f'"{row}"'
    assert usage_of_run(store, "day=1", RUN).unknown == 1  # it may have been billed
    assert model_server.jobs()["most_submitted"] == 1


@pytest.mark.parametrize("case", NAMED.values(), ids=NAMED)
async def test_failed_lines_are_asked_again_and_refused_ones_are_not(case: Case, model_server: ModelServer) -> None:
    """A 500 goes with another job, as a live call would be tried again; a 400 is the row's own, with its status."""
    store, model, client, backend = MemoryStore(), case.model(model_server), case.client(model_server), case.backend()
    model_server.script({"rules": [
        {"match": "Say 1.", "action": "error", "status": 400},
        {"match": "Say 2.", "action": "error", "status": 500, "times": 1},
    ]})  # fmt: skip
    parked = some(model, case, range(4))
    ends = await to_the_end(store, [park(store, "day=1", 0, parked)], client, backend)
    assert [(end.requests, end.answered, end.refused, end.given_back) for end in ends] == [(4, 2, 1, 1), (1, 1, 0, 0)]
    assert {record.id for record in calls(store, "day=1")} == {parked[row].row for row in (0, 2, 3)}
    refused = refused_calls(store, RUN, "day=1")
    assert list(refused) == [(parked[1].request, 0)]
    assert (refused[parked[1].request, 0]["kind"], refused[parked[1].request, 0]["status"]) == ("bad_request", 400)


async def test_a_request_that_fails_in_every_job_is_rejected_in_the_end(model_server: ModelServer) -> None:
    """A fifth job is the last: a row that the provider never answers must not be asked for ever."""
    store, model, client = MemoryStore(), OPENAI.model(model_server), OPENAI.client(model_server)
    model_server.script({"rules": [{"match": "Say 1.", "action": "error", "status": 500}]})
    parked = some(model, OPENAI, range(2))
    ends = await to_the_end(store, [park(store, "day=1", 0, parked)], client, OPENAI.backend())
    assert len(ends) == 5
    error = refused_calls(store, RUN, "day=1")[parked[1].request, 0]
    assert error["kind"] == "no_answer"
    assert "no answer in 5 jobs" in error["message"]


@pytest.mark.parametrize("case", NAMED.values(), ids=NAMED)
async def test_a_cancelled_job_keeps_what_it_finished(case: Case, model_server: ModelServer) -> None:
    """The finished part is kept and paid for, the rest is given back, and goes with another job."""
    store, client, backend = MemoryStore(), case.client(model_server), case.backend()
    model_server.script({"jobs": {"run_s": 3600}})
    job = a_job(store, case, model_server, 4)
    await submitted(store, job, client)
    assert (await poll(store, RUN, POOL, job, client)).state == "running"
    state = await cancel(store, RUN, POOL, job, client)
    assert state.state == "cancelled"
    end = await collect(store, RUN, POOL, job, client, backend)
    assert (end.answered, end.given_back, end.missing) == (0, 4, 0)
    model_server.script({})
    assert sum(one.answered for one in await to_the_end(store, end.again, client, backend)) == 4
    assert usage_of_run(store, "day=1", RUN).unknown == 0


@pytest.mark.parametrize("case", [OPENAI, ANTHROPIC, BEDROCK], ids=["OpenAI", "Anthropic", "Bedrock"])
async def test_a_job_that_expires_half_way_gives_the_rest_back(case: Case, model_server: ModelServer) -> None:
    store, model, client, backend = MemoryStore(), case.model(model_server), case.client(model_server), case.backend()
    model_server.script({"jobs": {"expire_share": 0.5}})
    (end,) = await through(store, [park(store, "day=1", 0, some(model, case, range(10)))], client, backend)
    assert (end.state, end.answered, end.given_back, end.missing, len(calls(store, "day=1"))) == ("expired", 5, 5, 0, 5)


async def test_a_job_that_was_never_submitted_can_be_cancelled(model_server: ModelServer) -> None:
    """All of it is given back, and it is not submitted any more."""
    store, client = MemoryStore(), OPENAI.client(model_server)
    job = a_job(store, OPENAI, model_server, 2)
    await cancel(store, RUN, POOL, job, client)
    assert (await submitted(store, job, client)).state == "failed"
    end = await collect(store, RUN, POOL, job, client, OPENAI.backend())
    assert (end.state, end.given_back) == ("cancelled", 2)
    assert model_server.jobs()["submitted"] == 0


async def test_jobs_are_shown_as_they_were_last_seen(model_server: ModelServer) -> None:
    """What people see needs no call: states, counts and what was saved, from the sink."""
    store, client = MemoryStore(), OPENAI.client(model_server)
    model_server.script({"jobs": {"run_s": 3600}})
    job = a_job(store, OPENAI, model_server, 2)
    assert [facts.state for facts in jobs_of(store, RUN)] == ["formed"]
    about = described(store, RUN, POOL, job)
    assert (about.model, about.most_nano_usd, about.most_tokens) == ("openai:gpt-test", 10, 14)
    await submitted(store, job, client)
    await poll(store, RUN, POOL, job, client)
    (facts,) = jobs_of(store, RUN)
    assert (facts.state, facts.requests, facts.done, facts.ended_at) == ("running", 2, 0, None)
    assert facts.deadline is not None
    await cancel(store, RUN, POOL, job, client)
    await collect(store, RUN, POOL, job, client, OPENAI.backend())
    (facts,) = jobs_of(store, RUN)
    assert (facts.state, facts.cost_usd, facts.saved_usd) == ("cancelled", 0.0, 0.0)


def test_custom_ids_are_as_every_provider_takes_them() -> None:
    assert len(custom_id("0" * 16, ("f" * 32, 10**13))) <= 64
