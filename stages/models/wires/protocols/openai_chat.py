"""Chat Completions: OpenAI's older protocol, which most servers of open models speak. No I/O."""

from collections.abc import Mapping
from typing import Any

import orjson
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, InvalidToolCall, ToolCall, ToolMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatResult

from schemas.errors import NoAnswer
from stages.models.logprobs import LOGPROBS, tokens_with_logprobs
from stages.models.wires.protocols.answer import (
    ToolCalls,
    chat_result,
    counted,
    failure_in,
    no_completion_in,
    shown,
    usage,
)
from stages.models.wires.protocols.parts import in_chat_form
from stages.models.wires.protocols.wire import Request, SchemaMode, WholeAnswers

_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}


def wire(message: BaseMessage) -> dict[str, Any]:
    """Convert a LangChain message to the API's form."""
    role = message.role if isinstance(message, ChatMessage) else _ROLES.get(message.type, "user")
    out: dict[str, Any] = {"role": role, "content": message.content}
    if isinstance(message, AIMessage):
        calls = [_wire_call(call, orjson.dumps(call["args"]).decode()) for call in message.tool_calls]
        calls += [_wire_call(call, call["args"] or "") for call in message.invalid_tool_calls]
        if calls:
            out["content"], out["tool_calls"] = message.content or None, calls
    if isinstance(message, ToolMessage):
        out["tool_call_id"] = message.tool_call_id
    elif message.name:
        out["name"] = message.name
    return out


def _wire_call(call: ToolCall | InvalidToolCall, arguments: str) -> dict[str, Any]:
    return {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": arguments}}


class OpenAIChat(WholeAnswers):
    """`POST /chat/completions`. The canonical request is its body already."""

    def path(self, model: str) -> str:
        return "chat/completions"

    def headers(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"} if key else {}

    def schema_modes(self, request: Request) -> tuple[SchemaMode, ...]:
        return "format", "words"

    def body(self, request: Request) -> dict[str, Any]:
        return {**request, "messages": [_sent(message) for message in request["messages"]]}

    def failure(self, answer: dict[str, Any]) -> tuple[int, str] | None:
        return failure_in(answer, "choices")

    def result(self, answer: dict[str, Any], headers: Mapping[str, str], model: str) -> ChatResult:
        return result_of(answer, headers.get("x-request-id"), model)


def _sent(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message whose content is in the API's own form, if it came from another provider's or LangChain's."""
    content = message["content"]
    return {**message, "content": in_chat_form(content)} if isinstance(content, list) else message


def result_of(answer: dict[str, Any], request_id: str | None, model: str) -> ChatResult:
    """Convert an answer to LangChain's form. Raises NoAnswer for a completion without one."""
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        found = _usage(answer.get("usage"))
        raise no_completion_in(answer, "choices", billed=found is None or found["total_tokens"] > 0)
    message_json = choice.get("message") or {}
    if not isinstance(message_json, dict):
        raise NoAnswer("the provider's answer has no message", kind="malformed_response", raw=shown(answer))
    finish = choice.get("finish_reason")
    if str(finish).lower() == "error" or choice.get("error"):
        raise NoAnswer("the provider failed while it answered", kind="empty_answer", raw=shown(answer))
    metadata = {
        "finish_reason": finish,
        "model_name": answer.get("model", model),
        "request_id": request_id or answer.get("id"),
        **{name: answer[name] for name in ("system_fingerprint", "service_tier") if answer.get(name)},
    }
    if tokens := tokens_with_logprobs((choice.get("logprobs") or {}).get("content"), "token", "logprob"):
        metadata[LOGPROBS] = tokens
    extra = {"refusal": message_json["refusal"]} if message_json.get("refusal") else {}
    calls = ToolCalls()
    for call in message_json.get("tool_calls") or []:
        function = call.get("function") or {}
        calls.add(function.get("name"), function.get("arguments"), call.get("id"))
    message = AIMessage(
        content=message_json.get("content") or "",
        additional_kwargs=extra,
        response_metadata=metadata,
        tool_calls=calls.valid,
        invalid_tool_calls=calls.invalid,
        usage_metadata=_usage(answer.get("usage")),
    )
    return chat_result(message)


def _usage(raw: Any) -> UsageMetadata | None:
    """Return tokens as the provider counts them; None if it does not count, or not in numbers."""
    if not isinstance(raw, dict):
        return None
    of_input = raw.get("prompt_tokens_details")
    return usage(
        counted(raw, "prompt_tokens", "input_tokens"),
        counted(raw, "completion_tokens", "output_tokens"),
        cached=counted(of_input, "cached_tokens"),
        cache_written=(counted(of_input, "cache_write_tokens"),),
        reasoning=counted(raw.get("completion_tokens_details"), "reasoning_tokens"),
    )
