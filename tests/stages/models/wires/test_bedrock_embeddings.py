"""Embeddings on Bedrock: boto3 sends the same, Cohere's models get many texts a request, and each text has its own
record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import boto3
import orjson
import pytest
from botocore.config import Config
from langchain_core.messages import AIMessage, HumanMessage

from pipeline.bedrock import bedrock_access
from schemas.errors import RowError, SpecError
from stages.journal.records import CallRecord
from stages.models.chat_model import ChatModel
from stages.models.embeddings.clients import embedder_of
from stages.models.embeddings.vectors import unpacked
from stages.models.settings.choice import ModelServices
from tests.stages.models.wires.referee import Referee, a_referee
from tests.stages.support import Segments, a_context, a_graph_stage, answers, enrich, kinds

TITAN, COHERE, V4 = "amazon.titan-embed-text-v2:0", "cohere.embed-multilingual-v3", "cohere.embed-v4:0"
NOVA = "amazon.nova-2-multimodal-embeddings-v1:0"
KEYS = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
# The model, our parameters, and the body as a user of boto3 writes it for "one", or for "one" and "two".
BODIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "titan": (TITAN, {"dimensions": 256, "normalize": True},
              {"inputText": "one", "dimensions": 256, "normalize": True}),
    "cohere": (COHERE, {"input_type": "clustering", "truncate": "END"},
               {"input_type": "clustering", "texts": ["one", "two"], "truncate": "END"}),
    "cohere 4": (V4, {"dimensions": 512, "embedding_types": ["float"]},
                 {"input_type": "search_query", "texts": ["one", "two"], "output_dimension": 512,
                  "embedding_types": ["float"]}),
    "nova": (NOVA, {"dimensions": 1024}, {"taskType": "SINGLE_EMBEDDING", "singleEmbeddingParams": {
        "embeddingPurpose": "GENERIC_INDEX", "embeddingDimension": 1024,
        "text": {"truncationMode": "END", "value": "one"}}}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))


@pytest.fixture
async def referee(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Referee]:
    async with a_referee() as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", found.url)
        yield found


def embedder(name: str, params: dict[str, Any] | None = None) -> ChatModel:
    given = {**KEYS, **(params or {})}
    return embedder_of("bedrock", name, given, 30, bedrock_access(given))


async def embed(model: ChatModel, *texts: str) -> list[AIMessage]:
    found = await asyncio.gather(*(model._agenerate([HumanMessage(text)]) for text in texts))
    messages = [one.generations[0].message for one in found]
    return [message for message in messages if isinstance(message, AIMessage)]


def cohere(count: int) -> dict[str, Any]:
    vectors = [[float(at), 0.5] for at in range(count)]
    return {"id": "x", "response_type": "embeddings_floats", "texts": ["t"] * count, "embeddings": vectors}


@pytest.mark.parametrize("name", BODIES)
async def test_boto3_sends_the_same(referee: Referee, name: str) -> None:
    model, params, body = BODIES[name]
    answer = {
        "titan": {"embedding": [0.0, 0.5], "inputTextTokenCount": 3},
        "cohere 4": {"embeddings": {"float": [[0.0, 0.5], [1.0, 0.5]]}},
        "nova": {"embeddings": [{"embeddingType": "TEXT", "embedding": [0.0, 0.5]}]},
    }.get(name, cohere(2))
    referee.next = [(200, answer, {}), (200, answer, {})]
    texts = ("one", "two") if "texts" in body else ("one",)
    messages = await embed(embedder(model, params), *texts)
    assert [unpacked(str(message.content)) for message in messages] == [[0.0, 0.5], [1.0, 0.5]][: len(texts)]
    client = boto3.client("bedrock-runtime", config=Config(retries={"total_max_attempts": 1}), **KEYS)
    await asyncio.to_thread(lambda: client.invoke_model(modelId=model, body=orjson.dumps(body)))
    client.close()
    (our_path, our_headers, our_body), (path, headers, theirs) = referee.sent
    assert our_body == theirs
    assert our_path == path
    assert referee.raw_paths[0] == referee.raw_paths[1], "the signature is of the path as it stands"
    assert our_headers["content-type"] == headers.get("content-type", "application/json")
    scope = "/us-east-1/bedrock/aws4_request"
    assert scope in our_headers["authorization"]
    assert scope in headers["authorization"]


async def test_titan_counts_the_tokens_of_each_text(referee: Referee) -> None:
    referee.next = [(200, {"embedding": [0.5], "inputTextTokenCount": count}, {}) for count in (3, 4)]
    messages = await embed(embedder(TITAN), "bb", "dddd")
    assert len(referee.sent) == 2, "one text a request"
    read = [message.usage_metadata["input_tokens"] for message in messages if message.usage_metadata]
    assert sorted(read) == [3, 4]


async def test_coheres_tokens_are_in_a_header_and_divided(referee: Referee) -> None:
    referee.next = [(200, cohere(2), {"X-Amzn-Bedrock-Input-Token-Count": "12"})]
    messages = await embed(embedder(COHERE), "bb", "dddd")
    assert [message.usage_metadata["input_tokens"] for message in messages if message.usage_metadata] == [4, 8]


@pytest.mark.parametrize(("model", "texts", "requests"), [(TITAN, 9, 9), (COHERE, 250, 3)])
async def test_requests_hold_as_many_texts_as_the_model_takes(model: str, texts: int, requests: int) -> None:
    sizes: list[int] = []
    found = embedder_of("bedrock", model, {}, 30)

    async def post(body: bytes, path: str, answers: int = 1) -> Any:
        sizes.append(answers)
        return (cohere(answers) if model == COHERE else {"embedding": [0.5]}), {}

    object.__setattr__(found, "_post", post)
    await embed(found, *map(str, range(texts)))
    assert sum(sizes) == texts
    assert max(sizes) == (96 if model == COHERE else 1)
    assert len(sizes) == requests


async def test_a_stage_has_a_record_a_text(referee: Referee, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.setenv({"region_name": "AWS_REGION"}.get(name, name.upper()), KEYS[name])
    referee.make = lambda body: {"embeddings": [[float(len(text)), 0.5] for text in body["texts"]]}
    stage = a_graph_stage(
        {"uses": "embed", "model": f"bedrock:{COHERE}", "prompt": "{{ text }}", "output": {"vector": "list[float]"}},
        services=ModelServices(bedrock=bedrock_access),
    )
    store = Segments()
    for run in ("run-1", "run-2"):
        found = answers(await enrich(stage, ["a" * at for at in range(1, 20)], a_context(store, run=run)))
        assert found == [{"vector": [float(at), 0.5]} for at in range(1, 20)]
    assert sum(len(body["texts"]) for _, _, body in referee.sent) == 19, "each text once, however they were gathered"
    records = [record for record in store.records if isinstance(record, CallRecord) and record.raw is not None]
    assert len(records) == 19
    assert {record.cost_usd for record in records} == {None}, "no price of Cohere's on Bedrock is known"


async def test_one_text_at_fault_rejects_its_row_alone(referee: Referee) -> None:
    refusal: tuple[int, dict[str, str], dict[str, str]] = (
        400,
        {"message": "Malformed input request: texts/1: expected maxLength: 2048"},
        {},
    )
    referee.next = [refusal, (200, cohere(1), {}), refusal]
    model = embedder(COHERE)
    found = await asyncio.gather(
        *(model._agenerate([HumanMessage(text)]) for text in ("a", "b" * 3_000)), return_exceptions=True
    )
    assert [isinstance(one, RowError) for one in found] == [False, True]


def test_a_model_that_embeds_nothing_is_a_sentence() -> None:
    with pytest.raises(SpecError, match="Titan, Nova and Cohere embed texts") as caught:
        a_graph_stage(
            {"uses": "embed", "model": "bedrock:anthropic.claude-haiku-4-5", "prompt": "{{ text }}",
             "output": {"vector": "list[float]"}}
        )  # fmt: skip
    assert "titan" in caught.value.hint


async def test_a_throttled_request_is_asked_again(referee: Referee) -> None:
    stage = a_graph_stage(
        {"uses": "embed", "model": {"name": f"bedrock_converse:{TITAN}", "params": KEYS}, "prompt": "{{ text }}",
         "output": {"vector": "list[float]"}},
        services=ModelServices(bedrock=bedrock_access),
    )  # fmt: skip
    referee.next = [
        (429, {"message": "Too many requests"}, {"Retry-After": "0.01"}),
        (200, {"embedding": [0.5], "inputTextTokenCount": 1}, {}),
    ]
    assert kinds(await enrich(stage, ["a"], a_context())) == ["ok"]
