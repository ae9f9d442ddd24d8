"""Gemini's embeddings: Google's own SDK sends the same, and each text has its own record."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google import genai
from google.genai import types
from langchain_core.messages import HumanMessage

from stages.journal.records import CallRecord
from stages.models.embeddings.gemini import GeminiEmbeddings
from stages.models.embeddings.vectors import unpacked
from stages.models.wires.clients import arguments_of
from tests.stages.models.wires.referee import Referee, a_referee
from tests.stages.support import Segments, a_context, a_graph_stage, answers, enrich

pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
MODEL = "gemini-embedding-001"


def vectors(count: int, tokens: int | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"embeddings": [{"values": [float(at), 0.5]} for at in range(count)]}
    return found if tokens is None else {**found, "usageMetadata": {"promptTokenCount": tokens}}


def model(referee: Referee, **params: Any) -> GeminiEmbeddings:
    return GeminiEmbeddings(
        **arguments_of("google_genai", MODEL, {"base_url": referee.url, "api_key": "AIza", **params}, 30)
    )


async def test_the_sdk_sends_the_same() -> None:
    async with a_referee() as referee:
        referee.next = [(200, vectors(2), {}), (200, vectors(2), {})]
        ours = model(referee, task_type="clustering", dimensions=64)
        await asyncio.gather(*(ours._agenerate([HumanMessage(text)]) for text in ("one", "two")))
        client = genai.Client(api_key="AIza", http_options=types.HttpOptions(base_url=referee.url, api_version="v1"))
        config = types.EmbedContentConfig(task_type="CLUSTERING", output_dimensionality=64)
        await client.aio.models.embed_content(model=MODEL, contents=["one", "two"], config=config)
        (our_path, our_headers, our_body), (path, headers, body) = referee.sent
        assert our_path == path
        assert our_headers["x-goog-api-key"] == headers["x-goog-api-key"]
        assert our_body == body


async def test_each_is_paid_by_its_part_of_the_request() -> None:
    async with a_referee() as referee:
        referee.next = [(200, vectors(2, 12), {})]
        ours = model(referee)
        found = await asyncio.gather(*(ours._agenerate([HumanMessage(text)]) for text in ("bb", "dddd")))
    messages: list[Any] = [one.generations[0].message for one in found]
    assert [message.usage_metadata["input_tokens"] for message in messages] == [4, 8]
    assert [unpacked(message.content) for message in messages] == [[0.0, 0.5], [1.0, 0.5]]
    (sent,) = referee.sent
    assert sent[2]["requests"][0]["taskType"] == "RETRIEVAL_QUERY", "as LangChain's class asked for them"


async def test_a_stage_has_a_record_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_referee() as referee:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", referee.url)
        monkeypatch.setenv("GOOGLE_API_KEY", "AIza")
        referee.next = [(200, vectors(1, 3), {})]
        stage = a_graph_stage(
            {"uses": "embed", "model": f"google_genai:{MODEL}", "prompt": "{{ text }}",
             "output": {"vector": "list[float]"}}
        )  # fmt: skip
        store = Segments()
        for run in ("run-1", "run-2"):
            assert answers(await enrich(stage, ["aaaa"], a_context(store, run=run))) == [{"vector": [0.0, 0.5]}]
    records = [record for record in store.records if isinstance(record, CallRecord) and record.raw is not None]
    assert [record.usage["input"] for record in records] == [3]


async def test_a_request_has_a_hundred_texts_at_most() -> None:
    async with a_referee() as referee:
        ours = model(referee)
        sizes: list[int] = []

        async def post(body: bytes, path: str, answers: int = 1) -> Any:
            sizes.append(answers)
            return vectors(answers), {}

        object.__setattr__(ours, "_post", post)
        await asyncio.gather(*(ours._agenerate([HumanMessage(f"{at}")]) for at in range(250)))
    assert sum(sizes) == 250
    assert max(sizes) == 100


async def test_an_answer_with_too_few_vectors_is_none() -> None:
    async with a_referee() as referee:
        referee.next = [(200, {"embeddings": []}, {})]
        with pytest.raises(Exception, match="not the JSON of a completion"):
            await model(referee)._agenerate([HumanMessage("one")])
