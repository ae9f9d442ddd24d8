"""A job that is cancelled before its id is known: it is looked for first, and what is found is cancelled."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest

from pipeline.provider_jobs.collection import collect
from pipeline.provider_jobs.polling import cancel
from pipeline.provider_jobs.submission import submit
from pipeline.stores.memory import MemoryStore
from schemas import ids
from schemas.errors import RowError
from schemas.jobs import Claim, Intent
from tests.harness.model_server import ModelServer
from tests.pipeline.provider_jobs.support import (
    ANTHROPIC,
    BEDROCK,
    GEMINI,
    NAMED,
    OPENAI,
    POOL,
    QUICK,
    RUN,
    Case,
    a_job,
    over,
    submitted,
)


@pytest.mark.parametrize("case", [OPENAI, GEMINI, BEDROCK], ids=["OpenAI", "Gemini", "Bedrock"])
async def test_a_job_whose_creation_lost_its_reply_is_found_and_cancelled(
    case: Case, model_server: ModelServer
) -> None:
    store, client = MemoryStore(), case.client(model_server)
    model_server.script({"jobs": {"cut_reply": 1, "run_s": 3600}})
    job = a_job(store, case, model_server)
    assert (await submit(store, RUN, POOL, job, client, patience=QUICK)).state == "waiting"
    assert (await cancel(store, RUN, POOL, job, client, patience=QUICK)).state == "cancelled"
    assert [one["state"] for one in model_server.jobs()["jobs"]] == ["cancelled"]
    end = await collect(store, RUN, POOL, job, client, case.backend())
    assert (end.state, end.answered, end.given_back) == ("cancelled", 0, 3)


async def test_at_anthropic_it_is_undecided_until_its_custom_ids_show(model_server: ModelServer) -> None:
    """Nothing is recorded meanwhile; when it has ended, what it has answered is collected."""
    store, client = MemoryStore(), ANTHROPIC.client(model_server)
    model_server.script({"jobs": {"cut_reply": 1, "run_s": 0.5}})
    job = a_job(store, ANTHROPIC, model_server)
    assert (await submit(store, RUN, POOL, job, client, patience=QUICK)).state == "waiting"
    assert (await cancel(store, RUN, POOL, job, client, patience=QUICK)).state == "waiting"
    assert store.head(ids.job_submitted(RUN, POOL, job)) is None
    time.sleep(0.6)  # noqa: ASYNC251  the server is another process
    assert (await cancel(store, RUN, POOL, job, client, patience=QUICK)).state == "ended"
    assert (await collect(store, RUN, POOL, job, client, ANTHROPIC.backend())).answered == 3


@pytest.mark.parametrize("case", NAMED.values(), ids=NAMED)
async def test_a_job_that_a_living_worker_may_be_creating_is_waited_for(case: Case, model_server: ModelServer) -> None:
    store, client = MemoryStore(), case.client(model_server)
    job = a_job(store, case, model_server)
    intent = Intent(job=job, digest="", requests=3, bytes=1, prefix=f"{job}-", at=time.time())
    claim = Claim(at=time.time(), until=time.time() + 60, by=f"another machine/{os.getpid()}/1")
    store.put_new(ids.job_intent(RUN, POOL, job), intent.model_dump_json().encode())
    store.put_new(ids.job_claim(RUN, POOL, job, 1), claim.model_dump_json().encode())
    state = await cancel(store, RUN, POOL, job, client, patience=QUICK)
    assert state.state == "waiting"
    assert 50 < state.wait_s <= 60
    store.put(ids.job_claim(RUN, POOL, job, 1), claim.model_copy(update={"until": 0.0}).model_dump_json().encode())
    assert (await cancel(store, RUN, POOL, job, client, patience=QUICK)).state == "failed"
    assert (await submitted(store, job, client)).state == "failed"
    assert model_server.jobs()["submitted"] == 0


async def test_nobody_creates_a_job_between_the_last_look_and_the_record(model_server: ModelServer) -> None:
    """Who withdraws it has the claim: another worker that comes then finds that it is not his turn."""
    store, client = MemoryStore(), OPENAI.client(model_server)
    job = a_job(store, OPENAI, model_server)
    found = []

    def comes(operation: str, key: str) -> None:
        if operation == "put_new" and key.endswith("submitted.json"):
            found.append([info.key for info in store.list(ids.job_claims(RUN, POOL, job))])

    store.fault = comes
    await cancel(store, RUN, POOL, job, client, patience=replace(QUICK, prepared_s=5.0))
    assert found == [[ids.job_claim(RUN, POOL, job, 1)]]


async def test_a_job_that_is_over_is_not_cancelled(model_server: ModelServer) -> None:
    store, client = MemoryStore(), OPENAI.client(model_server)
    job = a_job(store, OPENAI, model_server)
    await over(store, job, client)
    assert (await cancel(store, RUN, POOL, job, client, patience=QUICK)).state == "ended"


async def test_a_job_that_ends_while_it_is_cancelled_is_over(model_server: ModelServer) -> None:
    """Its provider refuses the cancel. One that is refused for another reason is an error."""
    store, client = MemoryStore(), OPENAI.client(model_server)
    job = a_job(store, OPENAI, model_server)
    await submitted(store, job, client)

    async def refused(id: str) -> None:
        raise RowError("a job that has ended cannot be cancelled", kind="bad_request", status=400)

    client.cancel = refused  # type: ignore[method-assign]
    await over(store, job, client)
    assert (await cancel(store, RUN, POOL, job, client, patience=QUICK)).state == "ended"
    model_server.script({"jobs": {"run_s": 3600}})
    other = MemoryStore()
    running = a_job(other, OPENAI, model_server)
    await submitted(other, running, client)
    with pytest.raises(RowError):
        await cancel(other, RUN, POOL, running, client, patience=QUICK)
