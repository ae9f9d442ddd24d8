"""Anthropic's own SDK referees our wire: it sends the same for the same request, and reads our server's answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import anthropic
import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from schemas.spec.fields import OutputField, json_schema
from stages.models.answers.answer_format import AnswerFormat
from stages.models.wires.protocols.anthropic import VERSION
from stages.models.wires.protocols.schemas import anthropic_schema
from tests.harness.script import Rule
from tests.stages.models.wires.referee import Referee, a_referee, ask, declared

HAIKU, OPUS, OLD = "claude-haiku-4-5", "claude-opus-4-8", "claude-3-5-haiku-latest"
FIELDS = {
    "kind": OutputField.model_validate({"type": "enum", "values": ["bug", "wish"]}),
    "score": OutputField.model_validate({"type": "int", "ge": 1, "le": 5, "description": "How bad."}),
    "born": OutputField.model_validate("date?"),
    "tags": OutputField.model_validate({"type": "list[str]", "max_length": 3}),
    "who": OutputField.model_validate({"fields": {"name": "str", "age": "int?"}}),
}
SCHEMA = json_schema(FIELDS)
PNG = "iVBORw0KGgoAAAANSUhEUg=="
PDF = "JVBERi0xLjQK"
MARK = {"type": "ephemeral"}


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return word


LOOK_UP: Any = {
    "name": "look_up", "description": "Look a word up.",
    "input_schema": {"properties": {"word": {"type": "string"}}, "required": ["word"], "type": "object"},
}  # fmt: skip
ASK: list[BaseMessage] = [HumanMessage("It is late.")]
USER: Any = [{"role": "user", "content": "It is late."}]
CALLED = AIMessage("Let me see.", tool_calls=[{"name": "look_up", "args": {"word": "late"}, "id": "toolu_1"}])
USED = {"type": "tool_use", "id": "toolu_1", "name": "look_up", "input": {"word": "late"}}
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "tardy"}


@dataclass
class Case:
    """A request as graphs make it, and as a user of the SDK writes it."""

    sdk: dict[str, Any]
    messages: list[BaseMessage] = field(default_factory=lambda: ASK)
    params: dict[str, Any] = field(default_factory=dict)
    kwargs: dict[str, Any] = field(default_factory=dict)
    model: str = HAIKU


def user(*parts: dict[str, Any]) -> list[BaseMessage]:
    return [HumanMessage(list(parts))]


CASES = {
    "plain": Case({"max_tokens": 64_000}),
    "capped, with system, stop and sampling": Case(
        {"max_tokens": 9, "system": "Sort.", "stop_sequences": ["x"], "extra_body": {"temperature": 0, "top_k": 3}},
        messages=[SystemMessage("Sort."), *ASK], params={"max_tokens": 9, "temperature": 0, "top_k": 3},
        kwargs={"stop": ["x"]},
    ),
    "tier and metadata": Case(
        {"max_tokens": 9, "service_tier": "standard_only", "metadata": {"user_id": "u"}},
        params={"max_tokens": 9, "service_tier": "standard_only", "metadata": {"user_id": "u"}},
    ),
    "tools": Case({"max_tokens": 9, "tools": [LOOK_UP]}, params={"max_tokens": 9}, kwargs={"tools": [look_up]}),
    "any tool": Case(
        {"max_tokens": 9, "tools": [LOOK_UP], "tool_choice": {"type": "any"}},
        params={"max_tokens": 9}, kwargs={"tools": [look_up], "tool_choice": "any"},
    ),
    "one tool, once": Case(
        {"max_tokens": 9, "tools": [LOOK_UP],
         "tool_choice": {"type": "tool", "name": "look_up", "disable_parallel_tool_use": True}},
        params={"max_tokens": 9},
        kwargs={"tools": [look_up], "tool_choice": "look_up", "parallel_tool_calls": False},
    ),
    "a tool that the provider runs": Case(
        {"max_tokens": 9, "tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 2}]},
        params={"max_tokens": 9},
        kwargs={"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 2}]},
    ),
    "a schema": Case(
        {"max_tokens": 9, "output_config": {"format": {"type": "json_schema", "schema": anthropic_schema(SCHEMA)}}},
        params={"max_tokens": 9}, kwargs=declared(SCHEMA),
    ),
    "a schema beside tools, thinking": Case(
        {"max_tokens": 9_000, "tools": [LOOK_UP], "thinking": {"type": "enabled", "budget_tokens": 2_000},
         "output_config": {"format": {"type": "json_schema", "schema": anthropic_schema(SCHEMA)}}},
        params={"max_tokens": 9_000, "thinking": {"type": "enabled", "budget_tokens": 2_000}},
        kwargs={"tools": [look_up], **declared(SCHEMA)},
    ),
    "a schema for a model without that mode": Case(
        {"max_tokens": 8_192, "tool_choice": {"type": "tool", "name": "answer"},
         "tools": [{"name": "answer", "description": "Give the answer.", "input_schema": anthropic_schema(SCHEMA),
                    "strict": True}]},
        kwargs=declared(SCHEMA), model=OLD,
    ),
    "effort": Case(
        {"max_tokens": 128_000, "thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
        params={"reasoning_effort": "low"}, model=OPUS,
    ),
    "effort of a model that knows tokens only": Case(
        {"max_tokens": 9_000, "thinking": {"type": "enabled", "budget_tokens": 4_096}},
        params={"max_tokens": 9_000, "reasoning_effort": "medium"},
    ),
    "effort without room for thoughts": Case(
        {"max_tokens": 900}, params={"max_tokens": 900, "reasoning_effort": "high"},
    ),
    "effort beside a schema": Case(
        {"max_tokens": 9, "thinking": {"type": "adaptive"},
         "output_config": {"effort": "max", "format": {"type": "json_schema", "schema": anthropic_schema(SCHEMA)}}},
        params={"max_tokens": 9, "effort": "max"}, kwargs=declared(SCHEMA), model=OPUS,
    ),
    "images": Case(
        {"max_tokens": 9, "messages": [{"role": "user", "content": [
            {"type": "text", "text": "What?"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
            {"type": "image", "source": {"type": "base64", "media_type": "image/webp", "data": PNG}},
            {"type": "image", "source": {"type": "url", "url": "https://example.com/a.jpg"}},
        ]}]},
        messages=user({"type": "text", "text": "What?"},
                      {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
                      {"type": "image", "base64": PNG, "mime_type": "image/webp"},
                      {"type": "image", "source": {"type": "url", "url": "https://example.com/a.jpg"}}),
        params={"max_tokens": 9},
    ),
    "documents": Case(
        {"max_tokens": 9, "messages": [{"role": "user", "content": [
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}},
            {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}},
        ]}]},
        messages=user({"type": "file", "base64": PDF, "mime_type": "application/pdf"},
                      {"type": "file", "url": "https://example.com/a.pdf", "mime_type": "application/pdf"}),
        params={"max_tokens": 9},
    ),
    "cache marks": Case(
        {"max_tokens": 9, "system": [{"type": "text", "text": "Sort.", "cache_control": MARK}],
         "messages": [{"role": "user", "content": [{"type": "text", "text": "a", "cache_control": MARK},
                                                   {"type": "text", "text": "b"}]}]},
        messages=[SystemMessage([{"type": "text", "text": "Sort.", "cache_control": MARK}]),
                  *user({"type": "text", "text": "a", "cache_control": MARK}, {"type": "text", "text": "b"})],
        params={"max_tokens": 9},
    ),
    "the result of a tool": Case(
        {"max_tokens": 9, "tools": [LOOK_UP], "messages": [
            *USER, {"role": "assistant", "content": [{"type": "text", "text": "Let me see."}, USED]},
            {"role": "user", "content": [RESULT]}]},
        messages=[*ASK, CALLED, ToolMessage("tardy", tool_call_id="toolu_1")],
        params={"max_tokens": 9}, kwargs={"tools": [look_up]},
    ),
    "thoughts are given back": Case(
        {"max_tokens": 9_000, "tools": [LOOK_UP], "thinking": {"type": "enabled", "budget_tokens": 1_024}, "messages": [
            *USER, {"role": "assistant", "content": [THOUGHT, USED]}, {"role": "user", "content": [RESULT]}]},
        messages=[*ASK, CALLED.model_copy(update={"content": [THOUGHT, USED]}),
                  ToolMessage("tardy", tool_call_id="toolu_1")],
        params={"max_tokens": 9_000, "thinking": {"type": "enabled", "budget_tokens": 1_024}},
        kwargs={"tools": [look_up]},
    ),
    "a complaint about an answer that was a call of a tool": Case(
        {"max_tokens": 9, "tools": [{"name": "look_up", "input_schema": {"type": "object", "properties": {}}}],
         "output_config": {"format": {"type": "json_schema", "schema": anthropic_schema(SCHEMA)}}, "messages": [
            *USER, {"role": "assistant", "content": [{"type": "text", "text": "Let me see."}, USED]},
            {"role": "user", "content": [RESULT]}]},
        messages=[*ASK, CALLED, ToolMessage("tardy", tool_call_id="toolu_1")],
        params={"max_tokens": 9}, kwargs=declared(SCHEMA),
    ),
}  # fmt: skip


@pytest.fixture
async def referee() -> AsyncIterator[Referee]:
    async with a_referee() as found:
        yield found


def sdk(referee: Referee) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(
        base_url=referee.url, api_key="sk-test", max_retries=0, timeout=30, _strict_response_validation=True
    )


@pytest.mark.parametrize("name", CASES)
async def test_the_sdk_sends_the_same(referee: Referee, name: str) -> None:
    case = CASES[name]
    ours = await ask(referee, f"anthropic:{case.model}", case.messages, case.params, **case.kwargs)
    async with sdk(referee) as client:
        theirs = await client.messages.create(**{"model": case.model, "messages": USER, **case.sdk})
    (our_path, our_headers, our_body), (path, headers, body) = referee.sent
    assert our_body == body
    assert our_path == path
    for header in ("anthropic-version", "authorization", "content-type"):
        assert our_headers[header] == headers[header]
    assert headers["anthropic-version"] == VERSION
    assert theirs.model_extra == {}
    assert ours.usage_metadata is not None
    assert ours.usage_metadata["output_tokens"] == theirs.usage.output_tokens
    assert ours.response_metadata["finish_reason"] == theirs.stop_reason


class Who(BaseModel):
    name: str
    age: int | None


class Letter(BaseModel):
    kind: str
    scores: list[int]
    who: Who
    parts: list[Letter]


def test_schemas_are_rewritten_as_the_sdk_does() -> None:
    rewritten = anthropic.transform_schema(Letter.model_json_schema())
    assert anthropic_schema(Letter.model_json_schema()) == rewritten
    assert anthropic_schema(SCHEMA) == anthropic.transform_schema(SCHEMA)


def test_a_union_by_types_is_written_as_any_of() -> None:
    union = {"type": ["integer", "null"], "minimum": 1, "description": "How many."}
    assert anthropic_schema(union) == {
        "anyOf": [{"type": "integer", "description": "{minimum: 1}"}, {"type": "null"}], "description": "How many.",
    }  # fmt: skip


@pytest.mark.parametrize("rule", [None, Rule(action="length"), Rule(action="refusal"), Rule(action="tool_calls",
    tool_calls=[{"name": "look_up", "arguments": {"word": "a"}}])])  # fmt: skip
async def test_the_sdk_and_we_read_the_same_answers(referee: Referee, rule: Rule | None) -> None:
    referee.rule = rule
    ours = await ask(referee, f"anthropic:{HAIKU}", ASK, tools=[look_up])
    async with sdk(referee) as client:
        theirs = await client.messages.create(model=HAIKU, messages=USER, max_tokens=64_000, tools=[LOOK_UP])
    assert ours.response_metadata["finish_reason"] == theirs.stop_reason
    assert ours.content == "".join(block.text for block in theirs.content if block.type == "text")
    uses = [block for block in theirs.content if block.type == "tool_use"]
    assert [(call["name"], call["args"]) for call in ours.tool_calls] == [(use.name, use.input) for use in uses]


async def test_thoughts_and_caches_are_counted(referee: Referee) -> None:
    answer = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-4-5-20251001",
        "content": [THOUGHT, {"type": "text", "text": '{"a":1}'}], "stop_reason": "end_turn", "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 7, "cache_read_input_tokens": 100,
                  "cache_creation_input_tokens": 30, "service_tier": "priority",
                  "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10},
                  "output_tokens_details": {"thinking_tokens": 4}},
    }  # fmt: skip
    anthropic.types.Message.model_validate(answer, strict=True)
    referee.next = [(200, answer, {"request-id": "req_7"})]
    message = await ask(referee, f"anthropic:{HAIKU}", ASK)
    assert message.usage_metadata == {
        "input_tokens": 140, "output_tokens": 7, "total_tokens": 147,
        "input_token_details": {"cache_read": 100, "cache_creation": 30, "ephemeral_1h_input_tokens": 10},
        "output_token_details": {"reasoning": 4},
    }  # fmt: skip
    assert message.response_metadata == {
        "finish_reason": "end_turn", "model_name": "claude-haiku-4-5-20251001", "request_id": "req_7",
        "service_tier": "priority",
    }  # fmt: skip
    assert AnswerFormat({"a": OutputField.model_validate("int")}, None, "s").read(message) == {"a": 1}
    assert message.content[0] == THOUGHT
