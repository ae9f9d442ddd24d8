"""Bedrock's jobs: one creation of a job succeeds, whatever file it names; few calls are no job; refusals are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.provider_jobs.base import Content, JobClient
from pipeline.provider_jobs.clients import client_for
from pipeline.provider_jobs.collection import collect
from pipeline.provider_jobs.forming import form_jobs
from pipeline.provider_jobs.submission import submit
from pipeline.stores.memory import MemoryStore
from schemas.errors import FatalModelError, TransientModelError
from schemas.jobs import Intent
from stages.models.wires.jobs import bedrock as wire
from tests.harness.model_server import ModelServer
from tests.pipeline.provider_jobs.support import BEDROCK, POOL, QUICK, RUN, over, park, some

pytestmark = pytest.mark.usefixtures("bedrock")
INTENT = Intent(job="0" * 16, digest="d", requests=1, bytes=1, prefix="x", at=0.0)


def a_content(client: JobClient, server: ModelServer, path: Path) -> Content:
    path.write_bytes(client.line("c", some(BEDROCK.model(server), BEDROCK, [1])[0].body) + b"\n")
    return Content(path, path.stat().st_size)


async def test_a_second_creation_is_a_conflict_and_the_first_is_found(
    model_server: ModelServer, tmp_path: Path
) -> None:
    """A worker that slept names a file of its own: nothing is created, and he is to look again."""
    client = BEDROCK.client(model_server)
    content = a_content(client, model_server, tmp_path / "content.jsonl")
    first, second = [await client.upload(INTENT, content) for _ in range(2)]
    assert first != second
    id = await client.create(INTENT, content, first)
    assert await client.create(INTENT, content, first) == id
    with pytest.raises(TransientModelError, match="token"):
        await client.create(INTENT, content, second)
    assert await client.find(INTENT) == id
    await client.withdraw(second)
    assert model_server.jobs()["files"] == 1
    await client.cancel(id)  # it is over: no error


async def test_a_job_with_too_few_calls_is_not_sent_and_gives_all_of_them_back(model_server: ModelServer) -> None:
    """None of them has a try less, and the least number is known to who forms the next job."""
    store, model = MemoryStore(), BEDROCK.model(model_server)
    client = client_for(model)
    assert client is not None
    (job,) = form_jobs(
        store, RUN, POOL, [park(store, "day=1", 0, some(model, BEDROCK, range(3)))], client=client, closing=True
    ).jobs
    state = await submit(store, RUN, POOL, job, client, patience=QUICK)
    assert (state.state, state.message) == ("failed", "3 calls; a job takes 100 or more")
    end = await collect(store, RUN, POOL, job, client, BEDROCK.backend())
    assert (end.least, end.given_back, end.refused, end.fatal) == (100, 3, 0, "")
    assert (model_server.jobs()["jobs"], model_server.jobs()["files"]) == ([], 0)
    (again,) = form_jobs(store, RUN, POOL, end.again, client=client, closing=True).jobs
    assert again != job


async def test_a_job_that_a_hundred_calls_are_in_is_sent(model_server: ModelServer) -> None:
    store, model = MemoryStore(), BEDROCK.model(model_server)
    client = client_for(model)
    assert client is not None
    key = park(store, "day=1", 0, some(model, BEDROCK, range(100)))
    (job,) = form_jobs(store, RUN, POOL, [key], client=client, closing=True).jobs
    assert (await over(store, job, client)).state == "ended"
    end = await collect(store, RUN, POOL, job, client, BEDROCK.backend())
    assert (end.answered, end.least, model_server.jobs()["kept"]) == (100, 0, [])


async def test_a_bucket_that_is_refused_stops_the_run_by_its_name(
    model_server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = BEDROCK.client(model_server)
    content = a_content(client, model_server, tmp_path / "content.jsonl")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(FatalModelError, match="access is denied"):
        await client.upload(INTENT, content)


async def test_what_does_not_answer_is_tried_again(model_server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    client = BEDROCK.client(model_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK", "http://127.0.0.1:9")
    with pytest.raises(TransientModelError, match="EndpointConnectionError"):
        await client.status("arn:aws:bedrock:us-east-1:123456789012:model-invocation-job/abcdefghijkl")


async def test_keys_that_cannot_be_read_now_are_waited_for(
    model_server: ModelServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:9/keys")
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
    client = BEDROCK.client(model_server)
    content = Content(tmp_path / "content.jsonl", 0)
    content.path.touch()
    for step in (client.find(INTENT), client.upload(INTENT, content)):
        with pytest.raises(TransientModelError, match="cannot be renewed now"):
            await step


@pytest.mark.parametrize(
    ("code", "status"), [(400, 400), ("429", 429), ("ModelTimeoutException", 500), (None, 500), (200, 500)]
)
def test_a_record_without_an_answer_has_the_status_of_its_error(code: object, status: int) -> None:
    answer = wire.answer_of({"recordId": "c", "modelInput": {}, "error": {"errorCode": code, "errorMessage": "no"}})
    assert (answer.status, answer.body, answer.error) == (status, None, '{"message":"no"}')
