"""boto3 referees our wire to Bedrock: it sends the same, signed with the same keys, and reads our server's answers."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import boto3
import botocore.auth
import orjson
import pytest
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool

from pipeline.bedrock import bedrock_access
from schemas.errors import FatalModelError, RowError, SpecError, TransientModelError
from stages.models.wires.clients import client_of
from stages.models.wires.protocols.schemas import anthropic_schema
from stages.models.wires.signing import SignedAccess
from tests.harness.script import Rule
from tests.stages.models.wires.referee import Referee, a_referee, declared

CLAUDE, OPUS = "us.anthropic.claude-haiku-4-5-20251001-v1:0", "us.anthropic.claude-opus-4-8"
NOVA = "us.amazon.nova-lite-v1:0"
KEYS = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
SCHEMA = {
    "type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}, "required": ["a"],
    "additionalProperties": False,
}  # fmt: skip
PNG, PNG64 = b"\x89PNG\r\n", "iVBORw0K"
MARK = {"type": "ephemeral"}


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return word


PARAMETERS = {"properties": {"word": {"type": "string"}}, "required": ["word"], "type": "object"}
SPEC = {"toolSpec": {"name": "look_up", "description": "Look a word up.", "inputSchema": {"json": PARAMETERS}}}
ASK: list[BaseMessage] = [HumanMessage("It is late.")]
USER = [{"role": "user", "content": [{"text": "It is late."}]}]
CALLED = AIMessage("Hm.", tool_calls=[{"name": "look_up", "args": {"word": "late"}, "id": "t1"}])
USE = {"toolUse": {"toolUseId": "t1", "name": "look_up", "input": {"word": "late"}}}
RESULT = {"toolResult": {"toolUseId": "t1", "content": [{"text": "tardy"}]}}
THOUGHT = {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "c2ln"}}}
TEXT_FORMAT = {"type": "json_schema", "structure": {"jsonSchema": {"name": "answer", "schema": ""}}}


@dataclass
class Case:
    """A request as graphs make it, and as a user of boto3 writes it."""

    sdk: dict[str, Any] = field(default_factory=dict)
    messages: list[BaseMessage] = field(default_factory=lambda: ASK)
    params: dict[str, Any] = field(default_factory=dict)
    kwargs: dict[str, Any] = field(default_factory=dict)
    model: str = CLAUDE


CASES = {
    "plain": Case(),
    "capped, with system, stop and sampling": Case(
        {"system": [{"text": "Sort."}],
         "inferenceConfig": {"maxTokens": 9, "temperature": 0, "topP": 0.5, "stopSequences": ["x"]},
         "additionalModelRequestFields": {"top_k": 3}, "serviceTier": {"type": "flex"}},
        messages=[SystemMessage("Sort."), *ASK], kwargs={"stop": ["x"]},
        params={"max_tokens": 9, "temperature": 0, "top_p": 0.5, "top_k": 3, "service_tier": "flex"},
    ),
    "guardrails and fields": Case(
        {"guardrailConfig": {"guardrailIdentifier": "g", "guardrailVersion": "1"},
         "additionalModelRequestFields": {"a": 1}},
        params={"guardrail_config": {"guardrailIdentifier": "g", "guardrailVersion": "1"},
                "additional_model_request_fields": {"a": 1}}, model=NOVA,
    ),
    "tools": Case({"toolConfig": {"tools": [SPEC]}}, kwargs={"tools": [look_up]}),
    "any tool": Case(
        {"toolConfig": {"tools": [SPEC], "toolChoice": {"any": {}}}},
        kwargs={"tools": [look_up], "tool_choice": "any"}, model=NOVA,
    ),
    "one tool": Case(
        {"toolConfig": {"tools": [SPEC], "toolChoice": {"tool": {"name": "look_up"}}}},
        kwargs={"tools": [look_up], "tool_choice": "look_up"},
    ),
    "a schema": Case({"outputConfig": {"textFormat": TEXT_FORMAT}}, kwargs=declared(SCHEMA)),
    "a schema beside tools": Case(
        {"outputConfig": {"textFormat": TEXT_FORMAT}, "toolConfig": {"tools": [SPEC]}},
        kwargs={"tools": [look_up], **declared(SCHEMA)},
    ),
    "effort": Case(
        {"outputConfig": {"effort": "low"}, "additionalModelRequestFields": {"thinking": {"type": "adaptive"}}},
        params={"reasoning_effort": "low"}, model=OPUS,
    ),
    "thinking tokens": Case(
        {"inferenceConfig": {"maxTokens": 9_000},
         "additionalModelRequestFields": {"thinking": {"type": "enabled", "budget_tokens": 2_000}}},
        params={"max_tokens": 9_000,
                "additional_model_request_fields": {"thinking": {"type": "enabled", "budget_tokens": 2_000}}},
    ),
    "images, documents and marks": Case(
        {"system": [{"text": "Sort."}, {"cachePoint": {"type": "default"}}],
         "messages": [{"role": "user", "content": [
            {"text": "What?"}, {"cachePoint": {"type": "default"}},
            {"image": {"format": "png", "source": {"bytes": PNG}}},
            {"document": {"format": "pdf", "name": "my file", "source": {"bytes": PNG}}}]}]},
        messages=[SystemMessage([{"type": "text", "text": "Sort.", "cache_control": MARK}]),
                  HumanMessage([{"type": "text", "text": "What?", "cache_control": MARK},
                                {"type": "image", "base64": PNG64, "mime_type": "image/png"},
                                {"type": "file", "base64": PNG64, "mime_type": "application/pdf",
                                 "filename": "my/file"}])],
    ),
    "the result of a tool, and a complaint": Case(
        {"toolConfig": {"tools": [SPEC]}, "messages": [
            *USER, {"role": "assistant", "content": [{"text": "Hm."}, USE]},
            {"role": "user", "content": [RESULT, {"text": "Again."}]}]},
        messages=[*ASK, CALLED, ToolMessage("tardy", tool_call_id="t1"), HumanMessage("Again.")],
        kwargs={"tools": [look_up]},
    ),
    "thoughts are given back": Case(
        {"toolConfig": {"tools": [SPEC]}, "messages": [
            *USER, {"role": "assistant", "content": [THOUGHT, USE]}, {"role": "user", "content": [RESULT]}]},
        messages=[*ASK, CALLED.model_copy(update={"content": [
                      {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}]}),
                  ToolMessage("tardy", tool_call_id="t1")],
        kwargs={"tools": [look_up]},
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))


@pytest.fixture
async def referee() -> AsyncIterator[Referee]:
    async with a_referee() as found:
        yield found


@dataclass
class Both:
    """Our access and boto3's client, which take half a second to make."""

    referee: Referee
    access: SignedAccess
    client: Any

    async def ask(self, model: str, messages: list[BaseMessage], params: Any = None, **kwargs: Any) -> AIMessage:
        client = client_of("bedrock_converse", model, {**KEYS, **(params or {})}, 30, self.access)
        stop = kwargs.pop("stop", None)
        if tools := kwargs.pop("tools", None):
            choice = {"tool_choice": kwargs.pop("tool_choice")} if "tool_choice" in kwargs else {}
            kwargs = client.with_tools(tools, **choice, **kwargs)
        message = (await client._agenerate(messages, stop, **kwargs)).generations[0].message
        assert isinstance(message, AIMessage)
        return message

    async def by_boto3(self, **request: Any) -> Any:
        return await asyncio.to_thread(lambda: self.client.converse(**request))


@pytest.fixture
async def both(referee: Referee, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Both]:
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", referee.url)
    config = Config(retries={"total_max_attempts": 1})
    client = boto3.client("bedrock-runtime", config=config, **KEYS)
    yield Both(referee, bedrock_access(KEYS), client)
    client.close()


def with_schema(request: Any) -> Any:
    """The same request with the text of the schema, which is one string here."""
    form = request.get("outputConfig", {}).get("textFormat")
    if form is not None:
        text = orjson.dumps(anthropic_schema(SCHEMA)).decode()
        form = {**form, "structure": {"jsonSchema": {"name": "answer", "schema": text}}}
        request = {**request, "outputConfig": {**request["outputConfig"], "textFormat": form}}
    return request


async def test_boto3_sends_the_same(both: Both) -> None:
    for name, case in CASES.items():
        both.referee.sent.clear()
        ours = await both.ask(case.model, case.messages, case.params, **case.kwargs)
        theirs = await both.by_boto3(**{"modelId": case.model, "messages": USER, **with_schema(case.sdk)})
        (our_path, our_headers, our_body), (path, headers, body) = both.referee.sent
        assert our_body == body, name
        assert our_path == path
        scope = re.compile(r"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/\d{8}/us-east-1/bedrock/aws4_request, ")
        assert scope.match(our_headers["authorization"])
        assert scope.match(headers["authorization"])
        assert ours.usage_metadata is not None
        assert ours.usage_metadata["output_tokens"] == theirs["usage"]["outputTokens"]
        assert ours.response_metadata["finish_reason"] == theirs["stopReason"]


async def test_the_signature_is_of_what_was_sent(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signed again from what the server got, at the same moment, it is the same."""
    referee = both.referee
    both.access = bedrock_access({**KEYS, "aws_session_token": "a token"})
    await both.ask(CLAUDE, ASK, {"headers": {"X-Of-Ours": "two  words"}})
    _, headers, body = referee.sent[0]
    assert "%3A" in referee.raw_paths[0]
    signed = re.search(r"SignedHeaders=([^,]+)", headers["authorization"])
    assert signed is not None
    kept = {name: headers[name] for name in signed[1].split(";") if name not in ("host", "x-amz-date")}
    again = AWSRequest("POST", referee.url + referee.raw_paths[0], headers=kept, data=orjson.dumps(body))
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda **_: _moment(headers["x-amz-date"]))
    botocore.auth.SigV4Auth(Credentials("AKIDEXAMPLE", "secret"), "bedrock", "us-east-1").add_auth(again)
    assert again.headers["Authorization"] == headers["authorization"]


def _moment(text: str) -> Any:
    return dt.datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC)


async def test_boto3_and_we_read_the_same_answers(both: Both) -> None:
    calls = [{"name": "look_up", "arguments": {"word": "a"}}]
    rules = None, Rule(action="length"), Rule(action="refusal"), Rule(action="tool_calls", tool_calls=calls)
    for rule in rules:
        both.referee.rule = rule
        ours = await both.ask(CLAUDE, ASK, tools=[look_up])
        theirs = await both.by_boto3(modelId=CLAUDE, messages=USER, toolConfig={"tools": [SPEC]})
        content = theirs["output"]["message"]["content"]
        assert ours.content == "".join(block.get("text", "") for block in content)
        uses = [block["toolUse"] for block in content if "toolUse" in block]
        found = [(call["id"], call["args"]) for call in ours.tool_calls]
        assert found == [(use["toolUseId"], use["input"]) for use in uses]
        assert ours.response_metadata["finish_reason"] == theirs["stopReason"]


ERRORS: list[tuple[int, str, type[Exception]]] = [
    (403, "The security token included in the request is invalid.", FatalModelError),
    (404, "Could not resolve the foundation model", FatalModelError),
    (400, "The provided model identifier is invalid.", FatalModelError),
    (400, "Input is too long.", RowError),
    (429, "Too many requests, please wait before trying again.", TransientModelError),
    (503, "Bedrock is unable to process your request.", TransientModelError),
]


async def test_text_that_cites_documents_is_part_of_the_answer(both: Both) -> None:
    cited = {"citationsContent": {"content": [{"text": "late"}, {"text": "."}], "citations": [{"title": "One"}]}}
    answer = {
        "output": {"message": {"role": "assistant", "content": [{"text": "It is "}, cited]}}, "stopReason": "end_turn",
        "usage": {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}, "metrics": {"latencyMs": 1},
    }  # fmt: skip
    both.referee.next = [(200, answer, {})]
    assert (await both.ask(CLAUDE, ASK)).content == "It is late."


async def test_bedrocks_errors_are_sorted(both: Both) -> None:
    for status, message, kind in ERRORS:
        both.referee.next = [(status, {"message": message}, {})]
        with pytest.raises(kind):
            await both.ask(CLAUDE, ASK)


def test_without_a_region_or_a_profile_a_sentence_says_so() -> None:
    with pytest.raises(SpecError, match="needs a region") as caught:
        bedrock_access({})
    assert "AWS_REGION" in caught.value.hint
    with pytest.raises(SpecError, match="no such profile"):
        bedrock_access({"credentials_profile_name": "nobody", "region_name": "us-east-1"})
    with pytest.raises(SpecError, match="aws_secret_access_key"):
        bedrock_access({"aws_access_key_id": "AKIDEXAMPLE", "region_name": "us-east-1"})
    found = bedrock_access({"region_name": "eu-west-1"})
    assert found.base_url == "https://bedrock-runtime.eu-west-1.amazonaws.com"
    assert not found.has_credentials()
    assert bedrock_access(KEYS).has_credentials()


async def test_an_api_key_of_bedrocks_goes_before_other_credentials(
    referee: Referee, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", referee.url)
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "bedrock-api-key-1")
    await Both(referee, bedrock_access(KEYS), None).ask(CLAUDE, ASK)  # boto3 sends a key to https alone
    assert referee.sent[0][1]["authorization"] == "Bearer bedrock-api-key-1"


async def test_a_refused_signature_names_what_to_look_at(both: Both) -> None:
    both.referee.next = [(403, {"message": "User is not authorized to perform bedrock:InvokeModel."}, {})]
    with pytest.raises(FatalModelError) as caught:
        await both.ask(CLAUDE, ASK)
    assert caught.value.hint == "Check the account behind the provider's credentials."
