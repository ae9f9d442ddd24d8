"""Google's own SDK referees our wire: it sends the same for the same request, and reads our server's answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from google import genai
from google.genai import types
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool

from schemas.spec.fields import OutputField, json_schema
from stages.models.answers.answer_format import AnswerFormat
from stages.models.wires.protocols.schemas import gemini_schema
from tests.harness.protocols.gemini import spelled
from tests.harness.script import Rule
from tests.stages.models.wires.referee import Referee, a_referee, ask, declared

# The SDK's session is a subclass, of which aiohttp warns.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
FLASH, NEW = "gemini-2.5-flash", "gemini-3-pro-preview"
FIELDS = {
    "kind": OutputField.model_validate({"type": "enum", "values": ["bug", "wish"]}),
    "score": OutputField.model_validate({"type": "int", "gt": 0, "le": 5, "description": "How bad."}),
    "born": OutputField.model_validate("date?"),
    "tags": OutputField.model_validate({"type": "list[str]", "max_length": 3}),
    "who": OutputField.model_validate({"fields": {"name": {"type": "str", "max_length": 9}, "age": "int?"}}),
}
SCHEMA = json_schema(FIELDS)
PNG, PDF = b"\x89PNG\r\n", b"%PDF-1.4\n"
PNG64, PDF64 = "iVBORw0K", "JVBERi0xLjQK"


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return word


LOOK_UP = types.FunctionDeclaration(
    name="look_up", description="Look a word up.",
    parameters_json_schema={"properties": {"word": {"type": "string"}}, "required": ["word"], "type": "object"},
)  # fmt: skip
TOOLS = [types.Tool(function_declarations=[LOOK_UP])]
ASK: list[BaseMessage] = [HumanMessage("It is late.")]
CALLED = AIMessage("", tool_calls=[{"name": "look_up", "args": {"word": "late"}, "id": "fc_1"}])
CALL = types.FunctionCall(id="fc_1", name="look_up", args={"word": "late"})


def mode(name: str, *allowed: str) -> types.ToolConfig:
    config = types.FunctionCallingConfig(
        mode=types.FunctionCallingConfigMode(name), allowed_function_names=list(allowed) or None
    )
    return types.ToolConfig(function_calling_config=config)


def text(words: str, role: str = "user") -> types.Content:
    return types.Content(role=role, parts=[types.Part(text=words)])


def answered(response: dict[str, Any]) -> types.Content:
    result = types.FunctionResponse(id="fc_1", name="look_up", response=response)
    return types.Content(role="user", parts=[types.Part(function_response=result)])


JSON: dict[str, Any] = {"response_mime_type": "application/json", "response_json_schema": gemini_schema(SCHEMA)}


@dataclass
class Case:
    """A request as graphs make it, and as a user of the SDK writes it."""

    sdk: dict[str, Any] = field(default_factory=dict)
    contents: Any = "It is late."
    messages: list[BaseMessage] = field(default_factory=lambda: ASK)
    params: dict[str, Any] = field(default_factory=dict)
    kwargs: dict[str, Any] = field(default_factory=dict)
    model: str = FLASH


CASES = {
    "a web search": Case(
        {"tools": [types.Tool(google_search=types.GoogleSearch())]}, kwargs={"tools": [{"type": "web_search"}]},
    ),
    "plain": Case(),
    "capped, with system, stop and sampling": Case(
        {"max_output_tokens": 9, "system_instruction": "Sort.", "stop_sequences": ["x"], "temperature": 0, "top_k": 3,
         "top_p": 0.5, "seed": 7, "candidate_count": 1},
        messages=[SystemMessage("Sort."), *ASK], kwargs={"stop": ["x"]},
        params={"max_tokens": 9, "temperature": 0, "top_k": 3, "top_p": 0.5, "seed": 7, "n": 1},
    ),
    "tier, safety and cache": Case(
        {"service_tier": "flex", "cached_content": "cachedContents/7",
         "safety_settings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]},
        params={"service_tier": "flex", "cached_content": "cachedContents/7",
                "safety_settings": {"HARM_CATEGORY_HARASSMENT": "BLOCK_NONE"}},
    ),
    "tools": Case({"tools": TOOLS}, kwargs={"tools": [look_up]}),
    "any tool": Case({"tools": TOOLS, "tool_config": mode("ANY")}, kwargs={"tools": [look_up], "tool_choice": "any"}),
    "one tool": Case(
        {"tools": TOOLS, "tool_config": mode("ANY", "look_up")}, kwargs={"tools": [look_up], "tool_choice": "look_up"}
    ),
    "no tool": Case({"tools": TOOLS, "tool_config": mode("NONE")}, kwargs={"tools": [look_up], "tool_choice": "none"}),
    "a tool that the provider runs": Case(
        {"tools": [types.Tool(google_search=types.GoogleSearch())]},
        kwargs={"tools": [{"type": "google_search", "googleSearch": {}}]},
    ),
    "a schema": Case(JSON, kwargs=declared(SCHEMA)),
    "a schema beside tools": Case({**JSON, "tools": TOOLS}, kwargs={"tools": [look_up], **declared(SCHEMA)}, model=NEW),
    "a schema beside tools for Gemini 2": Case(
        {"tools": [types.Tool(function_declarations=[LOOK_UP, types.FunctionDeclaration(
            name="answer", description="Give the answer.", parameters_json_schema=gemini_schema(SCHEMA))])]},
        kwargs={"tools": [look_up], **declared(SCHEMA)},
    ),
    "thinking tokens": Case(
        {"thinking_config": {"thinking_budget": 2_000, "include_thoughts": True}},
        params={"thinking_budget": 2_000, "include_thoughts": True},
    ),
    "effort": Case({"thinking_config": {"thinking_level": "LOW"}}, params={"reasoning_effort": "low"}, model=NEW),
    "effort of a model that knows tokens only": Case(
        {"thinking_config": {"thinking_budget": 8_192}}, params={"reasoning_effort": "medium"}
    ),
    "no effort": Case({"thinking_config": {"thinking_budget": 0}}, params={"reasoning_effort": "none"}),
    "images, documents and sound": Case(
        contents=types.Content(role="user", parts=[
            types.Part(text="What?"), types.Part(inline_data=types.Blob(data=PNG, mime_type="image/png")),
            types.Part(inline_data=types.Blob(data=PDF, mime_type="application/pdf")),
            types.Part(inline_data=types.Blob(data=PDF, mime_type="audio/mp3")),
            types.Part(file_data=types.FileData(file_uri="https://example.com/a.jpg", mime_type="image/jpeg")),
        ]),
        messages=[HumanMessage([
            {"type": "text", "text": "What?"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG64}"}},
            {"type": "file", "base64": PDF64, "mime_type": "application/pdf"},
            {"type": "input_audio", "input_audio": {"data": PDF64, "format": "mp3"}},
            {"type": "image", "url": "https://example.com/a.jpg"},
        ])],
    ),
    "marks for another provider's cache": Case(
        messages=[HumanMessage([{"type": "text", "text": "It is late.", "cache_control": {"type": "ephemeral"}}])]
    ),
    "the result of a tool": Case(
        {"tools": TOOLS},
        contents=[text("It is late."), types.Content(role="model", parts=[types.Part(function_call=CALL)]),
                  answered({"output": "tardy"})],
        messages=[*ASK, CALLED, ToolMessage("tardy", tool_call_id="fc_1")], kwargs={"tools": [look_up]},
    ),
    "signatures are given back": Case(
        {"tools": TOOLS}, model=NEW,
        contents=[text("It is late."),
                  types.Content(role="model", parts=[types.Part(function_call=CALL, thought_signature=PNG)]),
                  answered({"found": 1})],
        messages=[*ASK, CALLED.model_copy(update={"content": [{"type": "function_call", "id": "fc_1",
                                                               "signature": PNG64}]}),
                  ToolMessage('{"found": 1}', tool_call_id="fc_1")],
        kwargs={"tools": [look_up]},
    ),
}  # fmt: skip


@pytest.fixture
async def referee() -> AsyncIterator[Referee]:
    async with a_referee() as found:
        yield found


def sdk(referee: Referee) -> genai.Client:
    return genai.Client(api_key="AIza-test", http_options={"base_url": referee.url})


@pytest.mark.parametrize("name", CASES)
async def test_the_sdk_sends_the_same(referee: Referee, name: str) -> None:
    case = CASES[name]
    ours = await ask(referee, f"google_genai:{case.model}", case.messages, case.params, **case.kwargs)
    config: Any = {"automatic_function_calling": {"disable": True}, **case.sdk}
    client = sdk(referee)
    theirs = await client.aio.models.generate_content(model=case.model, contents=case.contents, config=config)
    await client.aio.aclose()
    (our_path, our_headers, our_body), (path, headers, body) = referee.sent
    assert our_body == spelled(body)
    assert our_path == path
    assert "x-goog-api-key" in headers
    assert our_headers["x-goog-api-key"] == "sk-test"
    assert theirs.usage_metadata is not None
    assert ours.usage_metadata is not None
    assert ours.usage_metadata["output_tokens"] == theirs.usage_metadata.candidates_token_count
    assert theirs.candidates
    assert ours.response_metadata["finish_reason"] == theirs.candidates[0].finish_reason


def test_bounds_that_gemini_does_not_know_are_words() -> None:
    rewritten = gemini_schema(SCHEMA)["properties"]
    assert rewritten["score"] == {"type": "integer", "minimum": 1, "maximum": 5, "description": "How bad."}
    assert rewritten["tags"] == {"type": "array", "items": {"type": "string"}, "maxItems": 3}
    assert rewritten["who"]["properties"]["name"] == {"type": "string", "description": "{maxLength: 9}"}
    assert gemini_schema({"const": 1}) == {"enum": [1]}


@pytest.mark.parametrize("rule", [None, Rule(action="length"), Rule(action="refusal"), Rule(action="tool_calls",
    tool_calls=[{"name": "look_up", "arguments": {"word": "a"}}])])  # fmt: skip
async def test_the_servers_answers_are_the_apis(referee: Referee, rule: Rule | None) -> None:
    referee.rule = rule
    client = sdk(referee)
    config: Any = {"tools": TOOLS, "automatic_function_calling": {"disable": True}}
    theirs = await client.aio.models.generate_content(model=FLASH, contents="It is late.", config=config)
    await client.aio.aclose()
    ours = await ask(referee, f"google_genai:{FLASH}", ASK, tools=[look_up])
    assert theirs.candidates
    parts = (theirs.candidates[0].content.parts if theirs.candidates[0].content else None) or []
    assert ours.content == "".join(part.text or "" for part in parts)
    calls = [part.function_call for part in parts if part.function_call]
    assert [(call["name"], call["args"]) for call in ours.tool_calls] == [(call.name, call.args) for call in calls]


async def test_thoughts_and_caches_are_counted(referee: Referee) -> None:
    answer = {
        "candidates": [{"content": {"role": "model", "parts": [
            {"text": "Hm.", "thought": True}, {"text": '{"a":1}', "thoughtSignature": PNG64}]},
            "finishReason": "STOP", "index": 0}],
        "usageMetadata": {"promptTokenCount": 140, "candidatesTokenCount": 3, "thoughtsTokenCount": 4,
                          "cachedContentTokenCount": 100, "totalTokenCount": 147},
        "modelVersion": "gemini-2.5-flash-001", "responseId": "r7",
    }  # fmt: skip
    types.GenerateContentResponse.model_validate(answer, strict=False)
    referee.next = [(200, answer, {})]
    message = await ask(referee, f"google_genai:{FLASH}", ASK)
    assert message.usage_metadata == {
        "input_tokens": 140, "output_tokens": 7, "total_tokens": 147,
        "input_token_details": {"cache_read": 100}, "output_token_details": {"reasoning": 4},
    }  # fmt: skip
    assert message.response_metadata == {
        "finish_reason": "STOP", "model_name": "gemini-2.5-flash-001", "request_id": "r7",
    }  # fmt: skip
    assert AnswerFormat({"a": OutputField.model_validate("int")}, None, "s").read(message) == {"a": 1}


async def test_a_blocked_prompt_was_withheld(referee: Referee) -> None:
    blocked = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 3}}
    referee.next = [(200, blocked, {})]
    message = await ask(referee, f"google_genai:{FLASH}", ASK, **declared(SCHEMA))
    with pytest.raises(Exception, match="content filter withheld"):
        AnswerFormat(FIELDS, None, "s").read(message)


async def test_calls_without_an_id_are_told_apart_and_answered(referee: Referee) -> None:
    call = {"functionCall": {"name": "look_up", "args": {"word": "a"}}}
    answer = {"candidates": [{"content": {"role": "model", "parts": [call, call]}, "finishReason": "STOP"}]}
    referee.next = [(200, answer, {})]
    message = await ask(referee, f"google_genai:{FLASH}", ASK, tools=[look_up])
    first, second = (call["id"] for call in message.tool_calls)
    assert first != second
    turns = [*ASK, message, *(ToolMessage("b", tool_call_id=str(id)) for id in (first, second))]
    await ask(referee, f"google_genai:{FLASH}", turns, tools=[look_up])
    model, results = referee.body["contents"][1:]
    assert model["parts"] == [call, call]
    assert results["parts"] == [{"functionResponse": {"name": "look_up", "response": {"output": "b"}}}] * 2
