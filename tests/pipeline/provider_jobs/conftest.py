"""Sessions end with their test; Bedrock's files lie in a bucket of the session's S3 server."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from stages.models.wires.http import close_session
from tests.harness.model_server import ModelServer
from tests.harness.servers import SeaweedS3
from tests.pipeline.provider_jobs.support import BUCKET, Case


@pytest.fixture(autouse=True)
async def _sessions() -> AsyncIterator[None]:
    yield
    await close_session()


@pytest.fixture
def bedrock(seaweed: SeaweedS3, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An environment in which the model server is Bedrock, with an empty bucket for its jobs."""
    root = model_server.base_url.removesuffix("/v1")
    env = {**seaweed.env(), "AWS_ENDPOINT_URL_BEDROCK": root, "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": root}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with contextlib.closing(seaweed.client()) as client:
        for item in client.list_objects_v2(Bucket=seaweed.bucket(BUCKET)).get("Contents", ()):
            client.delete_object(Bucket=BUCKET, Key=item["Key"])
    model_server.use_s3(seaweed.endpoint, BUCKET, seaweed.env())
    yield
    model_server.use_s3("", "", {})


@pytest.fixture(autouse=True)
def _bedrock_where_a_case_needs_it(request: pytest.FixtureRequest) -> None:
    callspec = getattr(request.node, "callspec", None)
    case = callspec.params.get("case") if callspec is not None else None
    if isinstance(case, Case) and case.provider == "bedrock_converse":
        request.getfixturevalue("bedrock")
