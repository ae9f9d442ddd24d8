"""A job is at its provider once, whatever dies, whoever sleeps, and however many try."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.provider_jobs.base import Content
from pipeline.provider_jobs.collection import collect
from pipeline.provider_jobs.submission import Patience, submit
from pipeline.stores.memory import MemoryStore
from schemas import ids
from schemas.errors import FatalModelError, RowError
from schemas.jobs import Claim, Intent, Submitted
from tests.harness.model_server import ModelServer
from tests.harness.processes import ROOT
from tests.pipeline.provider_jobs.submitter import ROWS, STEPS
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
    over,
    some,
    submitted,
)

SIGKILL = 9


def killed(folder: Path, server: ModelServer, jobs: Sequence[str]) -> list[tuple[str, int, int]]:
    """For each job the signal that ended its first process, and how many of its requests were answered in the end."""
    command = [sys.executable, "-m", "tests.pipeline.provider_jobs.submitter", str(folder), server.base_url, *jobs]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=500)
    return [(job, signal, answered) for job, signal, answered in json.loads(done.stdout)]


@pytest.mark.slow
@pytest.mark.usefixtures("bedrock")
def test_a_process_that_is_killed_at_any_step_submits_nothing_twice(model_server: ModelServer, tmp_path: Path) -> None:
    """SIGKILL after each step between the intent and the recorded id: nothing twice, nothing lost."""
    jobs = [f"{name}={step}" for name in NAMED for step in STEPS]
    found = killed(tmp_path, model_server, jobs)
    assert found == [(job, SIGKILL, ROWS) for job in jobs]
    counts = model_server.jobs()
    assert (counts["submitted"], counts["most_submitted"]) == (ROWS * len(jobs), 1)


@pytest.mark.prove
@pytest.mark.usefixtures("bedrock")
def test_a_process_that_is_killed_at_any_moment_submits_nothing_twice(
    model_server: ModelServer, tmp_path: Path
) -> None:
    """The same at 40 random moments, while the job is collected, too."""
    rng = random.Random(22)
    jobs = [f"{rng.choice(list(NAMED))}={rng.uniform(0.005, 0.4):.4f}" for _ in range(40)]
    found = killed(tmp_path, model_server, jobs)
    assert [answered for _, _, answered in found] == [ROWS] * len(jobs)
    assert any(signal == SIGKILL for _, signal, _ in found)
    counts = model_server.jobs()
    assert (counts["submitted"], counts["most_submitted"]) == (ROWS * len(jobs), 1)


@pytest.mark.parametrize("case", NAMED.values(), ids=NAMED)
async def test_a_job_whose_creation_lost_its_reply_is_adopted(case: Case, model_server: ModelServer) -> None:
    """It was created, and the connection broke: it is found at the provider, not sent again."""
    store, client = MemoryStore(), case.client(model_server)
    model_server.script({"jobs": {"cut_reply": 1, "run_s": 0.3}})
    job = a_job(store, case, model_server)
    first = await submit(store, RUN, POOL, job, client, patience=QUICK)
    assert first.state == "waiting"
    await over(store, job, client)
    end = await collect(store, RUN, POOL, job, client, case.backend())
    assert end.answered == 3
    counts = model_server.jobs()
    assert (len(counts["jobs"]), counts["most_submitted"]) == (1, 1)


async def test_at_anthropic_a_job_of_the_same_size_is_not_taken_for_ours(model_server: ModelServer) -> None:
    """A stranger's batch of as many requests ended meanwhile: its custom ids show that it is not ours."""
    stranger, store, client = MemoryStore(), MemoryStore(), ANTHROPIC.client(model_server)
    job = a_job(store, ANTHROPIC, model_server)
    await submitted(stranger, a_job(stranger, ANTHROPIC, model_server), client)
    intent = Intent(job=job, digest="", requests=3, bytes=1, prefix=f"{job}-", at=0.0)
    assert await client.find(intent) is None
    state = await submitted(store, job, client)
    assert await client.find(intent) == state.id
    assert len(model_server.jobs()["jobs"]) == 2


@pytest.mark.parametrize("case", NAMED.values(), ids=NAMED)
async def test_many_workers_at_once_submit_one_job(case: Case, model_server: ModelServer) -> None:
    store = MemoryStore()
    job = a_job(store, case, model_server)
    patient = Patience(pause_s=0.05, prepared_s=5.0, margin_s=5.0)
    clients = [case.client(model_server) for _ in range(8)]
    states = await asyncio.gather(*(submit(store, RUN, POOL, job, client, patience=patient) for client in clients))
    states += [await submit(store, RUN, POOL, job, client, patience=patient) for client in clients]
    (id,) = {state.id for state in states if state.id}
    assert all(state.id == id for state in states[8:])
    counts = model_server.jobs()
    assert (len(counts["jobs"]), counts["most_submitted"]) == (1, 1)
    assert counts["files"] == (case is not ANTHROPIC)  # those of the others were removed


@pytest.mark.parametrize("case", [OPENAI, GEMINI], ids=["OpenAI", "Gemini"])
async def test_a_worker_that_slept_too_long_can_create_nothing_any_more(
    case: Case, model_server: ModelServer, tmp_path: Path
) -> None:
    """Another one has taken over, and removed the content that the sleeper had sent ahead."""
    store, client = MemoryStore(), case.client(model_server)
    job = a_job(store, case, model_server)
    intent = Intent(job=job, digest="", requests=1, bytes=1, prefix=f"{job}-", at=0.0)
    path = tmp_path / "content.jsonl"
    path.write_bytes(client.line(f"{job}-x-0", some(case.model(model_server), case, [1])[0].body) + b"\n")
    content = Content(path, path.stat().st_size)
    file = await client.upload(intent, content)
    claim = Claim(at=0.0, until=0.0, by="another machine/1/2", file=file)
    store.put_new(ids.job_claim(RUN, POOL, job, 1), claim.model_dump_json().encode())
    assert (await submitted(store, job, client)).id
    with pytest.raises((RowError, FatalModelError)):
        await client.create(intent, content, file)
    assert len(model_server.jobs()["jobs"]) == 1


async def test_a_job_that_was_created_too_many_is_cancelled(model_server: ModelServer) -> None:
    """The last resort: who finds another id recorded than his own stops what he created."""
    store, client = MemoryStore(), OPENAI.client(model_server)
    model_server.script({"jobs": {"run_s": 3600}})
    job = a_job(store, OPENAI, model_server)

    def another(operation: str, key: str) -> None:
        if operation == "put_new" and key.endswith("submitted.json"):
            store.fault = lambda operation, key: None
            store.put_new(key, Submitted(id="batch_other", at=0.0).model_dump_json().encode())

    store.fault = another
    assert (await submit(store, RUN, POOL, job, client, patience=QUICK)).id == "batch_other"
    assert [one["state"] for one in model_server.jobs()["jobs"]] == ["cancelled"]


@pytest.mark.parametrize("case", NAMED.values(), ids=NAMED)
async def test_a_key_that_is_refused_stops_the_run_and_claims_nothing(case: Case, model_server: ModelServer) -> None:
    """With the right key the job is submitted at once: nothing has to be waited for."""
    store, client = MemoryStore(), case.client(model_server)
    job = a_job(store, case, model_server)
    model_server.script({"jobs": {"refuse_key": case.key}})
    with pytest.raises(FatalModelError, match="refuses the key"):
        await submit(store, RUN, POOL, job, client, patience=QUICK)
    model_server.script({})
    assert (await submit(store, RUN, POOL, job, client, patience=QUICK)).id
