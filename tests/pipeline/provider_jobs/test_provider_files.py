"""Files at a provider are deleted once a job's answers are in the journal; those that came late need none of them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline.provider_jobs.collection import collect
from pipeline.provider_jobs.forming import form_jobs
from pipeline.provider_jobs.polling import cancel
from pipeline.provider_jobs.provider_files import left_at_providers
from pipeline.provider_jobs.requests import Pool
from pipeline.provider_jobs.submission import submit
from pipeline.stores.memory import MemoryStore
from schemas import ids
from stages.models.wires.jobs.form import JobAnswer
from tests.harness.model_server import ModelServer
from tests.pipeline.provider_jobs.support import (
    BEDROCK,
    CASES,
    GEMINI,
    NAMED,
    OPENAI,
    POOL,
    QUICK,
    RUN,
    Case,
    a_job,
    calls,
    message_in,
    over,
    park,
    some,
    submitted,
    through,
    to_the_end,
)

WITH_FILES = {name: CASES[name] for name in ("OpenAI", "Azure", "Gemini", "Bedrock")}


@pytest.mark.parametrize("case", WITH_FILES.values(), ids=WITH_FILES)
async def test_what_was_sent_and_what_was_answered_is_deleted_when_it_is_collected(
    case: Case, model_server: ModelServer
) -> None:
    """The input, and the files of outputs and of errors."""
    store, client = MemoryStore(), case.client(model_server)
    model_server.script({"rules": [{"match": "Say 1.", "action": "error", "status": 400}]})
    job = a_job(store, case, model_server)
    await over(store, job, client)
    assert len(model_server.jobs()["kept"]) == (2 if case is GEMINI else 3)
    assert len(left_at_providers(store)) == 1
    end = await collect(store, RUN, POOL, job, client, case.backend())
    assert (end.answered, end.refused) == (2, 1)
    assert model_server.jobs()["kept"] == []
    assert left_at_providers(store) == []


@pytest.mark.parametrize("case", WITH_FILES.values(), ids=WITH_FILES)
async def test_files_of_a_cancelled_job_are_deleted(case: Case, model_server: ModelServer) -> None:
    store, client = MemoryStore(), case.client(model_server)
    model_server.script({"jobs": {"run_s": 3600}})
    job = a_job(store, case, model_server)
    await submitted(store, job, client)
    await cancel(store, RUN, POOL, job, client, patience=QUICK)
    await collect(store, RUN, POOL, job, client, case.backend())
    assert model_server.jobs()["kept"] == []


@pytest.mark.parametrize("case", [OPENAI, GEMINI, BEDROCK], ids=["OpenAI", "Gemini", "Bedrock"])
async def test_a_file_of_a_job_that_was_never_created_is_deleted(case: Case, model_server: ModelServer) -> None:
    """It was sent ahead, then its worker died, and the job was withdrawn."""
    store, client = MemoryStore(), case.client(model_server)
    job = a_job(store, case, model_server)

    async def dies(*_: object) -> str:
        raise RuntimeError("killed")

    create, client.create = client.create, dies  # type: ignore[method-assign, assignment]
    with pytest.raises(RuntimeError):
        await submit(store, RUN, POOL, job, client, patience=QUICK)
    client.create = create  # type: ignore[method-assign]
    assert len(model_server.jobs()["kept"]) == 1
    while (state := await cancel(store, RUN, POOL, job, client, patience=QUICK)).state == "waiting":
        pass
    assert state.state == "failed"
    await collect(store, RUN, POOL, job, client, case.backend())
    assert (model_server.jobs()["kept"], left_at_providers(store)) == ([], [])


async def test_a_file_that_cannot_be_deleted_harms_nothing_and_is_named(
    model_server: ModelServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever collects the job again tries it again."""
    store, model, client = MemoryStore(), OPENAI.model(model_server), OPENAI.client(model_server)
    model_server.script({"jobs": {"keep_files": True}})
    with caplog.at_level(logging.WARNING, logger="tandem.jobs"):
        (end,) = await through(
            store, [park(store, "day=1", 0, some(model, OPENAI, range(2)))], client, OPENAI.backend()
        )
    assert end.answered == 2
    assert "could not be deleted: file-" in caplog.text
    assert left_at_providers(store) == [end.id]
    model_server.script({})
    await collect(store, RUN, POOL, end.job, client, OPENAI.backend())
    assert left_at_providers(store) == []


@pytest.mark.usefixtures("bedrock")
async def test_who_was_overtaken_while_it_read_the_results_asks_nothing_again(model_server: ModelServer) -> None:
    """The other worker has collected the job and deleted its files, so that a list of them is empty."""
    store, model, client = MemoryStore(), BEDROCK.model(model_server), BEDROCK.client(model_server)
    key = park(store, "day=1", 0, some(model, BEDROCK, range(3)))
    (job,) = form_jobs(store, RUN, POOL, [key], client=client, closing=True).jobs
    await over(store, job, client)
    slow, results = BEDROCK.client(model_server), client.results

    async def overtaken(id: str, folder: Path) -> AsyncIterator[JobAnswer]:
        await collect(store, RUN, POOL, job, client, BEDROCK.backend())
        async for answer in results(id, folder):
            yield answer

    slow.results = overtaken  # type: ignore[method-assign]
    end = await collect(store, RUN, POOL, job, slow, BEDROCK.backend())
    assert (end.answered, end.given_back, end.again) == (3, 0, ())
    assert Pool(store, RUN, POOL).ended(job) == end
    assert list(Pool(store, RUN, POOL).given_back(job)) == []
    assert [info.key for info in store.list(ids.parked_folder(RUN, "day=1"))] == [key]
    assert len(calls(store, "day=1")) == 3


@pytest.mark.parametrize("case", NAMED.values(), ids=NAMED)
async def test_what_comes_late_has_the_answers_of_the_journal(case: Case, model_server: ModelServer) -> None:
    """Values are those of who paid; a refusal is the same refusal; what was given back goes into the next job."""
    store, model, client = MemoryStore(), case.model(model_server), case.client(model_server)
    model_server.script({"rules": [
        {"match": "Say 1.", "action": "error", "status": 400},
        {"match": "Say 2.", "action": "error", "status": 500, "times": 1},
    ]})  # fmt: skip
    first = some(model, case, range(4))
    (end,) = await through(store, [park(store, "day=1", 0, first)], client, case.backend())
    late = park(store, "day=2", 0, some(model, case, range(4)))
    formed = form_jobs(store, RUN, POOL, [late], client=client, closing=True)
    assert end.job in formed.jobs
    again = await collect(store, RUN, POOL, end.job, client, case.backend())
    found = {record.id: record for record in calls(store, "day=2")}
    assert {message_in(record).content for record in found.values()} == {'"0"', '"3"'}
    assert all(record.carried for record in found.values())
    refused = store.list(ids.refused_calls(RUN, "day=2"))
    assert len(list(refused)) == 1
    (next_end,) = await to_the_end(store, again.again, client, case.backend())
    assert next_end.answered == 1
    assert {message_in(record).content for record in calls(store, "day=2")} == {'"0"', '"2"', '"3"'}


async def test_an_answer_that_is_in_no_journal_any_more_is_asked_again(model_server: ModelServer) -> None:
    store, model, client = MemoryStore(), OPENAI.model(model_server), OPENAI.client(model_server)
    (end,) = await through(store, [park(store, "day=1", 0, some(model, OPENAI, range(3)))], client, OPENAI.backend())
    store.delete([info.key for info in store.list(ids.journal_folder("day=1"))])
    late = park(store, "day=2", 0, some(model, OPENAI, range(2)))
    assert form_jobs(store, RUN, POOL, [late], client=client, closing=True).jobs == (end.job,)
    again = await collect(store, RUN, POOL, end.job, client, OPENAI.backend())
    assert calls(store, "day=2") == []
    (next_end,) = await to_the_end(store, again.again, client, OPENAI.backend())
    assert next_end.answered == 2
    assert len(calls(store, "day=2")) == 2
