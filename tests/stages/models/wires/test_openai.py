"""OpenAI's own SDK referees both of its wires: it sends the same for the same request, and reads the same answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from openai.types.responses import Response

from schemas.spec.fields import OutputField
from schemas.spec.sections import ModelChoice
from stages.models import credentials
from stages.models.answers.answer_format import AnswerFormat
from stages.models.settings.choice import model_identity
from stages.models.wires.clients import client_of
from stages.models.wires.protocols.openai_chat import OpenAIChat
from stages.models.wires.protocols.openai_responses import OpenAIResponses
from tests.harness.script import Rule
from tests.stages.models.wires.referee import Referee, a_referee, ask, declared

SCHEMA = {
    "type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}, "required": ["a"],
    "additionalProperties": False,
}  # fmt: skip
PNG, PDF = "data:image/png;base64,iVBORw0K", "data:application/pdf;base64,JVBERi0xLjQK"


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return word


PARAMETERS = {"properties": {"word": {"type": "string"}}, "required": ["word"], "type": "object"}
FUNCTION = {"name": "look_up", "description": "Look a word up.", "parameters": PARAMETERS}
CHAT_TOOL: Any = {"type": "function", "function": FUNCTION}
TOOL: Any = {"type": "function", "strict": False, **FUNCTION}
ASK: list[BaseMessage] = [HumanMessage("It is late.")]
USER: Any = [{"role": "user", "content": "It is late."}]
CALLED = AIMessage("Hm.", tool_calls=[{"name": "look_up", "args": {"word": "late"}, "id": "call_1"}])
CHAT_CALL = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"word":"late"}'}}
CALL = {"type": "function_call", "call_id": "call_1", "name": "look_up", "arguments": '{"word":"late"}'}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "c2Vj"}
FORMAT = {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True}
TURNS = [*ASK, CALLED, ToolMessage("tardy", tool_call_id="call_1")]
MEDIA = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": PNG}},
         {"type": "file", "base64": "JVBERi0xLjQK", "mime_type": "application/pdf", "filename": "a.pdf"}]  # fmt: skip
ENCRYPTED = {"include": ["reasoning.encrypted_content"]}


@dataclass
class Case:
    """A request as graphs make it, and as a user of the SDK writes it by each API."""

    chat: dict[str, Any] = field(default_factory=dict)
    responses: dict[str, Any] = field(default_factory=dict)
    messages: list[BaseMessage] = field(default_factory=lambda: ASK)
    params: dict[str, Any] = field(default_factory=dict)
    kwargs: dict[str, Any] = field(default_factory=dict)


CASES = {
    "plain": Case(),
    "capped, with system and sampling": Case(
        {"max_tokens": 9, "temperature": 0, "top_p": 0.5, "messages": [{"role": "system", "content": "Sort."}, *USER]},
        {"max_output_tokens": 9, "temperature": 0, "top_p": 0.5,
         "input": [{"role": "system", "content": "Sort."}, *USER]},
        messages=[SystemMessage("Sort."), *ASK], params={"max_tokens": 9, "temperature": 0, "top_p": 0.5},
    ),
    "effort and verbosity": Case(
        {"reasoning_effort": "low", "verbosity": "low"}, {"reasoning": {"effort": "low"}, "text": {"verbosity": "low"}},
        params={"reasoning_effort": "low", "verbosity": "low"},
    ),
    "tier, cache key and user": Case(
        {"service_tier": "flex", "prompt_cache_key": "k", "safety_identifier": "u"},
        {"service_tier": "flex", "prompt_cache_key": "k", "safety_identifier": "u"},
        params={"service_tier": "flex", "prompt_cache_key": "k", "safety_identifier": "u"},
    ),
    "tools": Case({"tools": [CHAT_TOOL]}, {"tools": [TOOL], **ENCRYPTED}, kwargs={"tools": [look_up]}),
    "any tool": Case(
        {"tools": [CHAT_TOOL], "tool_choice": "required"},
        {"tools": [TOOL], "tool_choice": "required", **ENCRYPTED},
        kwargs={"tools": [look_up], "tool_choice": "any"},
    ),
    "one tool, once": Case(
        {"tools": [CHAT_TOOL], "parallel_tool_calls": False,
         "tool_choice": {"type": "function", "function": {"name": "look_up"}}},
        {"tools": [TOOL], "parallel_tool_calls": False, "tool_choice": {"type": "function", "name": "look_up"},
         **ENCRYPTED},
        kwargs={"tools": [look_up], "tool_choice": "look_up", "parallel_tool_calls": False},
    ),
    "a schema": Case(declared(SCHEMA), {"text": {"format": FORMAT}}, kwargs=declared(SCHEMA)),
    "a schema beside tools": Case(
        {"tools": [CHAT_TOOL], **declared(SCHEMA)}, {"tools": [TOOL], "text": {"format": FORMAT}, **ENCRYPTED},
        kwargs={"tools": [look_up], **declared(SCHEMA)},
    ),
    "images and documents": Case(
        {"messages": [{"role": "user", "content": [
            MEDIA[0], MEDIA[1], {"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}}]}]},
        {"input": [{"role": "user", "content": [
            {"type": "input_text", "text": "What?"},
            {"type": "input_image", "image_url": PNG, "detail": "auto"},
            {"type": "input_file", "filename": "a.pdf", "file_data": PDF}]}]},
        messages=[HumanMessage(MEDIA)],  # type: ignore[arg-type]
    ),
    "the result of a tool": Case(
        {"tools": [CHAT_TOOL], "messages": [*USER, {"role": "assistant", "content": "Hm.", "tool_calls": [CHAT_CALL]},
                                            {"role": "tool", "tool_call_id": "call_1", "content": "tardy"}]},
        {"tools": [TOOL], "input": [*USER, {"role": "assistant", "content": "Hm."}, CALL,
                                    {"type": "function_call_output", "call_id": "call_1", "output": "tardy"}],
         **ENCRYPTED},
        messages=TURNS, kwargs={"tools": [look_up]},
    ),
    "thoughts are given back, to those who gave them": Case(
        {"tools": [CHAT_TOOL], "messages": [
            *USER, {"role": "assistant", "content": [{"type": "text", "text": "Hm."}], "tool_calls": [CHAT_CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "tardy"}]},
        {"tools": [TOOL], "input": [*USER, THOUGHT, {"role": "assistant", "content": "Hm."}, CALL,
                                    {"type": "function_call_output", "call_id": "call_1", "output": "tardy"}],
         **ENCRYPTED},
        messages=[*ASK, CALLED.model_copy(update={"content": [THOUGHT, {"type": "text", "text": "Hm."}]}), TURNS[-1]],
        kwargs={"tools": [look_up]},
    ),
}  # fmt: skip


@pytest.fixture
async def referee() -> AsyncIterator[Referee]:
    async with a_referee() as found:
        yield found


def sdk(referee: Referee) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{referee.url}/v1", api_key="sk-test", max_retries=0, timeout=30, _strict_response_validation=True
    )


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize("name", CASES)
async def test_the_sdk_sends_the_same(referee: Referee, name: str, api: str) -> None:
    case = CASES[name]
    ours = await ask(referee, "openai:gpt-4o", case.messages, {"api": api, **case.params}, **case.kwargs)
    async with sdk(referee) as client:
        if api == "chat":
            chat = await client.chat.completions.create(
                **{"model": "gpt-4o", "messages": USER, "stream": False, **case.chat}
            )
            assert chat.usage is not None
            theirs = chat.usage.completion_tokens
        else:
            response = await client.responses.create(
                **{"model": "gpt-4o", "input": USER, "store": False, **case.responses}
            )
            assert response.usage is not None
            theirs = response.usage.output_tokens
    (our_path, our_headers, our_body), (path, headers, body) = referee.sent
    assert our_body == body
    assert our_path == path
    assert our_headers["authorization"] == headers["authorization"]
    assert ours.usage_metadata is not None
    assert ours.usage_metadata["output_tokens"] == theirs


@pytest.mark.parametrize("rule", [None, Rule(action="length"), Rule(action="refusal"), Rule(action="tool_calls",
    tool_calls=[{"name": "look_up", "arguments": {"word": "a"}}])])  # fmt: skip
async def test_the_sdk_and_we_read_the_same_answers(referee: Referee, rule: Rule | None) -> None:
    referee.rule = rule
    ours = await ask(referee, "openai:gpt-4o", ASK, {"api": "responses"}, tools=[look_up])
    async with sdk(referee) as client:
        theirs = await client.responses.create(model="gpt-4o", input=USER, tools=[TOOL])
    assert ours.content == theirs.output_text
    calls = [item for item in theirs.output if item.type == "function_call"]
    assert [call["id"] for call in ours.tool_calls] == [call.call_id for call in calls]
    cut = theirs.incomplete_details.reason if theirs.incomplete_details else None
    assert ours.response_metadata["finish_reason"] == (cut or ("tool_calls" if calls else "stop"))
    assert bool(ours.additional_kwargs.get("refusal")) == (rule is not None and rule.action == "refusal")


async def test_thoughts_and_caches_are_counted_and_kept(referee: Referee) -> None:
    answer = {
        "id": "resp_1", "object": "response", "created_at": 1.0, "model": "gpt-6-sol", "status": "completed",
        "error": None, "incomplete_details": None, "instructions": None, "metadata": {}, "parallel_tool_calls": True,
        "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0, "service_tier": "flex",
        "output": [THOUGHT, {**CALL, "id": "fc_1", "status": "completed"}],
        "usage": {"input_tokens": 140, "output_tokens": 7, "total_tokens": 147,
                  "input_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 30},
                  "output_tokens_details": {"reasoning_tokens": 4}},
    }  # fmt: skip
    Response.model_validate(answer, strict=True)
    referee.next = [(200, answer, {"x-request-id": "req_7"})]
    message = await ask(referee, "openai:gpt-4o", ASK, {"api": "responses"}, tools=[look_up])
    assert message.usage_metadata == {
        "input_tokens": 140, "output_tokens": 7, "total_tokens": 147,
        "input_token_details": {"cache_read": 100, "cache_creation": 30}, "output_token_details": {"reasoning": 4},
    }  # fmt: skip
    assert message.response_metadata == {
        "finish_reason": "tool_calls", "model_name": "gpt-6-sol", "request_id": "req_7", "service_tier": "flex",
    }  # fmt: skip
    assert message.content[0] == THOUGHT
    assert AnswerFormat({"word": OutputField.model_validate("str")}, None, "look_up").read(message) == {"word": "late"}


def test_a_model_that_needs_the_responses_api_has_it_at_openai_alone() -> None:
    def wire(name: str, **params: Any) -> Any:
        return client_of("openai", name, {"base_url": credentials.OPENAI, **params}, 1).wire

    assert isinstance(wire("gpt-5-mini"), OpenAIChat)
    assert isinstance(wire("gpt-5-mini", api="responses"), OpenAIResponses)
    for name in ("o3-pro", "gpt-5-codex", "gpt-5.6-luna", "gpt-6-sol", "gpt-6.1-terra"):
        assert isinstance(wire(name), OpenAIResponses)
        assert isinstance(wire(name, api="chat"), OpenAIChat)
        assert isinstance(wire(name, seed=7), OpenAIChat)
        assert isinstance(wire(name, base_url="http://localhost:8000/v1"), OpenAIChat)


def test_which_api_is_called_is_in_no_identity() -> None:
    identity = model_identity(ModelChoice(name="openai:m"), {})
    assert model_identity(ModelChoice(name="openai:m", params={"api": "responses"}), {}) == identity
