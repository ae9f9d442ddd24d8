"""What is asked has one digest, however it is sent; and digests of earlier versions are still found."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from langchain.chat_models import init_chat_model
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool

from schemas.digests import digest
from schemas.spec.sections import ModelChoice, Spec
from stages.execution.attempt import BatchContext
from stages.journal.records import CallRecord, CommonRecord, Record, RequestRecord, encode_record, record_of
from stages.journal.requests import RequestText
from stages.models.asked import Declared, canonical_json, settings_of
from stages.models.backend import Backend
from stages.models.factory import build_model
from stages.models.request import ModelRequest, canonical_request
from stages.models.settings.choice import ModelServices, identities
from stages.models.wires.protocols.openai_chat import wire
from stages.models.wires.transport import ProviderChatModel
from tests.harness.model_server import ModelServer
from tests.stages.support import Segments, an_extract, enrich

SCHEMA = {"type": "object", "properties": {"mood": {"type": "string"}}, "required": ["mood"]}
ASKING: list[BaseMessage] = [SystemMessage("You sort."), HumanMessage("It is late.")]


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return word


def backend(name: str = "openai:m", **params: Any) -> Backend:
    spec = Spec.model_validate(
        {"name": "t", "source": {"path": "x.csv"}, "sink": {"path": "o"},
         "stages": [{"name": "s", "uses": "extract", "model": "offline:lexical", "prompt": "x",
                     "output": {"a": "str"}}]}
    )  # fmt: skip
    made = build_model(ModelChoice(name="offline:lexical"), spec.stages[0], spec, ModelServices())._tandem  # type: ignore[attr-defined]
    assert isinstance(made, Backend)
    fields = {**made.__dict__, **identities(ModelChoice(name=name, params=params), {})}
    return Backend(**fields)


def request(backend: Backend, messages: list[BaseMessage] = ASKING, **kwargs: Any) -> ModelRequest:
    declared = kwargs.pop("declared", None)
    return canonical_request(backend, messages, settings_of(None, kwargs, declared))


def as_before(name: str, messages: list[BaseMessage], **kwargs: Any) -> str:
    """The digest of the first version."""
    params = kwargs.pop("params", {})
    own = {**params, "base_url": "https://api.openai.com/v1"} if name.startswith("openai:") else params
    identity = orjson.dumps([name, own], option=orjson.OPT_SORT_KEYS)
    return digest(identity, canonical_json([wire(one) for one in messages]), canonical_json([None, kwargs]))


@pytest.fixture(autouse=True)
def _no_base_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


RESPONSE = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA, "strict": True}}
ANSWER_TOOL = {"name": "s", "description": "Give the answer.", "input_schema": SCHEMA}


def test_a_declared_output_has_one_digest_in_every_schema_mode() -> None:
    declared = Declared("s", SCHEMA)
    ways: list[dict[str, Any]] = [
        {"response_format": RESPONSE},
        {"tools": [ANSWER_TOOL], "tool_choice": {"type": "tool", "name": "s"}},
        {"tools": [convert_to_openai_tool(look_up)], "tool_choice": "required", "strict": True},
        {},
    ]
    assert len({request(backend(), declared=declared, **way).digest for way in ways}) == 1
    assert request(backend(), declared=Declared("s", {**SCHEMA, "required": []})).digest not in {
        request(backend(), declared=declared).digest
    }
    with_tools = Declared("s", SCHEMA, (look_up,))
    assert request(backend(), declared=with_tools).digest != request(backend(), declared=declared).digest


def test_how_a_request_is_sent_is_not_in_its_digest() -> None:
    plain = request(backend(), temperature=0)
    how: list[dict[str, Any]] = [
        {"stream": False}, {"service_tier": "flex"}, {"prompt_cache_key": "k"}, {"user": "u"}, {"store": True},
        {"metadata": {"a": 1}}, {"timeout": 3}, {"extra_headers": {"X": "y"}},
    ]  # fmt: skip
    for one in how:
        assert request(backend(), temperature=0, **one).digest == plain.digest
        assert request(backend(**one), temperature=0).digest == plain.digest
    marked: list[BaseMessage] = [
        SystemMessage([{"type": "text", "text": "You sort.", "cache_control": {"type": "ephemeral"}}]),
        HumanMessage("It is late."),
    ]
    unmarked: list[BaseMessage] = [SystemMessage([{"type": "text", "text": "You sort."}]), HumanMessage("It is late.")]
    assert request(backend(), marked).digest == request(backend(), unmarked).digest
    names = ("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict")
    caps: list[dict[str, Any]] = [{name: 9} for name in names]
    assert len({request(backend(**cap)).capped for cap in caps}) == 1
    assert {request(backend(**cap)).digest for cap in caps} == {request(backend()).digest}


@pytest.mark.parametrize("changed", [{"temperature": 1}, {"seed": 2}, {"stop": ["x"]}, {"reasoning_effort": "low"}])
def test_what_a_user_asks_for_is(changed: dict[str, Any]) -> None:
    assert request(backend(**changed)).digest != request(backend()).digest
    assert request(backend(), **changed).digest != request(backend()).digest
    assert request(backend("openai:other")).digest != request(backend()).digest
    assert request(backend(base_url="http://localhost:1")).digest != request(backend()).digest


def test_digests_of_the_first_version_are_among_those_that_are_looked_up() -> None:
    cases: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("openai:m", {}, {"response_format": RESPONSE}),
        ("openai:m", {"max_tokens": 9, "service_tier": "flex"}, {"response_format": RESPONSE}),
        ("openai:m", {"max_completion_tokens": 9}, {"tools": [convert_to_openai_tool(look_up)]}),
        ("anthropic:m", {"max_tokens": 9}, {"tools": [ANSWER_TOOL], "tool_choice": {"type": "tool", "name": "s"}}),
        ("anthropic:m", {}, {"tools": [ANSWER_TOOL], "tool_choice": {"type": "any"}, "stop": ["x"]}),
    ]
    for name, params, kwargs in cases:
        for declared in (None, Declared("s", SCHEMA)):
            names = [one.digest for one in request(backend(name, **params), declared=declared, **kwargs).names]
            assert as_before(name, ASKING, params=params, **kwargs) in names


PROVIDERS: dict[str, dict[str, Any]] = {
    "anthropic:claude-haiku-4-5": {"api_key": "x"},
    "google_genai:gemini-2.5-flash": {"api_key": "x"},
    "bedrock_converse:anthropic.claude-haiku-4-5": {
        "region_name": "us-east-1", "aws_access_key_id": "x", "aws_secret_access_key": "y",
    },
}  # fmt: skip
ANSWERING = {"type": "function", "function": {"name": "s", "description": "Give the answer.", "parameters": SCHEMA}}


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("case", ["an answer", "an answer after tools", "any tool", "a named tool", "tools", "stop"])
def test_requests_through_langchains_own_classes_are_found_again(name: str, case: str) -> None:
    """As earlier versions made them: `bind_tools` of the real class, whose arguments were digested."""
    theirs = init_chat_model(name, max_retries=0, timeout=3, **PROVIDERS[name])
    ours = ProviderChatModel(model="m")
    tools: list[Any] = [look_up]
    declared, bound, own = None, {}, {}
    match case:
        case "an answer":
            declared, bound = Declared("s", SCHEMA), theirs.bind_tools([ANSWERING], tool_choice="s").kwargs
            own = {"response_format": RESPONSE}
        case "an answer after tools":
            declared, bound = Declared("s", SCHEMA, tools), theirs.bind_tools([*tools, ANSWERING]).kwargs
            own = {**ours.with_tools(tools), "response_format": RESPONSE}
        case "any tool" | "a named tool" | "tools":
            choice = {"any tool": {"tool_choice": "any"}, "a named tool": {"tool_choice": "look_up"}}.get(case, {})
            bound = theirs.bind_tools(tools, **choice).kwargs
            own = ours.with_tools(tools, **choice)
    made, provider = backend(name, max_tokens=9), name.partition(":")[0]
    found = canonical_request(made, ASKING, settings_of(None, own, declared, provider))
    names = [one.digest for one in found.names]
    assert as_before(name, ASKING, params={"max_tokens": 9}, **bound) in names
    later = canonical_request(made, ASKING, settings_of(None, bound, declared))
    assert later.digest in names
    if provider == "anthropic" or declared is not None:
        assert later.digest == found.digest


def test_the_text_of_a_request_has_no_secret_and_no_long_media() -> None:
    secrets: dict[str, Any] = {"api_key": "sk-secret", "headers": {"X": "hush"}, "base_url": "http://me:pass@h/v1"}
    made = backend(**secrets, temperature=0, effort="low")
    picture = "data:image/png;base64," + "A" * 5000
    content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": "B" * 5000}]
    asked_for = request(made, [SystemMessage("You sort."), HumanMessage(content)])  # type: ignore[arg-type]
    text = asked_for.text
    assert text is not None
    assert asked_for.images == 1
    common, (asked,) = orjson.loads(text.common), orjson.loads(text.messages)
    assert common["model"] == {"name": "openai:m", "params": {"effort": "low", "temperature": 0}}
    assert common["messages"] == [{"role": "system", "content": "You sort."}]
    assert asked["content"][1]["text"] == "B" * 5000
    assert "5022 characters, SHA-256" in asked["content"][0]["image_url"]["url"]
    assert not any(word in text.common + text.messages for word in (b"sk-", b"hush", b"pass"))


def kept(records: list[Record]) -> tuple[list[RequestRecord], list[CommonRecord]]:
    return (
        [record for record in records if isinstance(record, RequestRecord)],
        [record for record in records if isinstance(record, CommonRecord)],
    )


async def test_a_journal_keeps_each_request_once_and_what_is_common_once(server: ModelServer) -> None:
    store = Segments()
    stage = an_extract(system="You sort letters.")
    await enrich(stage, ["one", "two", "two", "three"], context(store))
    requests, commons = kept(store.everything)
    calls = {record.request for record in store.records if isinstance(record, CallRecord)}
    assert {record.request for record in requests} == calls
    assert len(requests) == 3
    (common,) = commons
    assert {record.common for record in requests} == {common.common}
    assert orjson.loads(common.text)["messages"] == [{"role": "system", "content": "You sort letters."}]
    assert "response_format" in common.text
    assert sorted(orjson.loads(record.messages)[0]["content"] for record in requests) == ["one", "three", "two"]


async def test_digests_only_where_requests_are_not_to_be_kept(server: ModelServer) -> None:
    store = Segments()
    await enrich(an_extract(), ["one", "two"], context(store, requests=False))
    assert kept(store.everything) == ([], [])


def context(store: Segments, **options: Any) -> BatchContext:
    from tests.stages.support import a_context

    made = a_context(store)
    made.journal = store.journal(**options)
    return made


@pytest.mark.parametrize("text", ["short", "long " * 2_000, "[" + "ä" * 5_000, ""])
def test_a_large_request_is_packed_and_read_as_it_was(text: str) -> None:
    record = RequestRecord("r", "id", "c", text, "run-1", 1.0)
    body = encode_record(record)
    assert record_of(body) == record
    assert len(body) < 5_000
    assert record_of(body.replace(b'"size":', b'"size":9')) in (None, record)


async def test_many_bytes_are_flushed_before_many_records() -> None:
    store = Segments()
    journal = store.journal(flush_s=3600, flush_records=1000, flush_bytes=10_000)
    call = CallRecord("r", 0, "id", "m", "{}", None, {}, None, None, 0, "run-1", 0, 1.0, "n")
    for at in range(3):
        one = CallRecord(**{**{name: getattr(call, name) for name in call.__slots__}, "request": f"r{at}"})
        journal.note_request(one, RequestText(b"{}", b"x" * 4000))
        await journal.append(one)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert store.puts
    await journal.close()
    assert len(kept(store.everything)[0]) == 3
