"""Convert messages to the Chat Completions API, and its answers to LangChain messages. No I/O."""

import re
from typing import Any

import orjson
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, InvalidToolCall, ToolCall, ToolMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult

from schemas.errors import NoAnswer

_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}
_STATUS_OF_WORD = {
    "rate_limit_exceeded": 429, "rate_limited": 429, "too_many_requests": 429, "resource_exhausted": 429,
    "insufficient_quota": 429, "overloaded_error": 529, "overloaded": 529, "unavailable": 503, "server_error": 500,
    "invalid_api_key": 401, "unauthenticated": 401, "permission_denied": 403, "model_not_found": 404,
}  # fmt: skip


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


def result_of(answer: dict[str, Any], request_id: str | None, model: str) -> ChatResult:
    """Convert an answer to LangChain's form. Raises NoAnswer for a completion without one."""
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        usage = _usage(answer.get("usage"))
        billed = usage is None or usage["total_tokens"] > 0
        raise NoAnswer("the provider's answer has no choices", kind="empty_answer", raw=_shown(answer), billed=billed)
    message_json = choice.get("message") or {}
    if not isinstance(message_json, dict):
        raise NoAnswer("the provider's answer has no message", kind="malformed_response", raw=_shown(answer))
    finish = choice.get("finish_reason")
    if str(finish).lower() == "error" or choice.get("error"):
        raise NoAnswer("the provider failed while it answered", kind="empty_answer", raw=_shown(answer))
    metadata = {
        "finish_reason": finish,
        "model_name": answer.get("model", model),
        "request_id": request_id or answer.get("id"),
        **{name: answer[name] for name in ("system_fingerprint", "service_tier") if answer.get(name)},
    }
    extra = {"refusal": message_json["refusal"]} if message_json.get("refusal") else {}
    calls, invalid = _tool_calls(message_json.get("tool_calls") or [])
    message = AIMessage(
        content=message_json.get("content") or "",
        additional_kwargs=extra,
        response_metadata=metadata,
        tool_calls=calls,
        invalid_tool_calls=invalid,
        usage_metadata=_usage(answer.get("usage")),
    )
    return ChatResult(generations=[ChatGeneration(message=message)])


def _shown(answer: dict[str, Any]) -> str:
    return orjson.dumps(answer, default=str)[:2000].decode("utf-8", "replace")


def failure_of(answer: dict[str, Any]) -> tuple[int, str] | None:
    """Return the status and body of a failure that was sent as a success, in any shape; None for a completion."""
    if answer.get("choices"):
        return None
    error = next((answer[name] for name in ("error", "errors", "detail") if answer.get(name)), None)
    if error is None and (answer.get("object") == "error" or ("message" in answer and "choices" not in answer)):
        error = answer.get("message") or answer
    if error is None:
        return None
    status = _status_in(error) or _status_in(answer) or 502
    text = error if isinstance(error, str) else orjson.dumps(answer, default=str).decode()
    return status, text


def _status_in(error: Any) -> int | None:
    """Return the status in an error's body, written as a number or a word."""
    if isinstance(error, list) and error:
        return _status_in(error[0])
    if not isinstance(error, dict):
        return None
    for name in ("code", "status", "status_code", "statusCode", "http_status"):
        value = error.get(name)
        if isinstance(value, str):
            value = int(value) if value.isdecimal() else _STATUS_OF_WORD.get(value.lower())
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value < 600:
            return value
    return _status_in(error["error"]) if isinstance(error.get("error"), dict) else None


def _tool_calls(raw: list[dict[str, Any]]) -> tuple[list[ToolCall], list[InvalidToolCall]]:
    calls: list[ToolCall] = []
    invalid: list[InvalidToolCall] = []
    for call in raw:
        function = call.get("function") or {}
        name, raw_args = function.get("name"), function.get("arguments") or "{}"
        try:
            arguments = orjson.loads(raw_args)
        except orjson.JSONDecodeError:
            arguments = None
        if name and isinstance(arguments, dict):
            calls.append(ToolCall(name=name, args=arguments, id=call.get("id"), type="tool_call"))
        else:
            why = "arguments are not a JSON object"
            invalid.append(
                InvalidToolCall(name=name, args=str(raw_args), id=call.get("id"), error=why, type="invalid_tool_call")
            )
    return calls, invalid


def _usage(raw: Any) -> UsageMetadata | None:
    """Return tokens as the provider counts them; None if it does not count, or not in numbers."""
    if not isinstance(raw, dict):
        return None
    read, wrote = counted(raw, "prompt_tokens", "input_tokens"), counted(raw, "completion_tokens", "output_tokens")
    if read is None and wrote is None:
        return None
    usage = UsageMetadata(input_tokens=read or 0, output_tokens=wrote or 0, total_tokens=(read or 0) + (wrote or 0))
    cached = counted(_details(raw, "prompt"), "cached_tokens")
    reasoning = counted(_details(raw, "completion"), "reasoning_tokens")
    if cached:
        usage["input_token_details"] = {"cache_read": cached}
    if reasoning:
        usage["output_token_details"] = {"reasoning": reasoning}
    return usage


def _details(raw: dict[str, Any], of: str) -> dict[str, Any]:
    found = raw.get(f"{of}_tokens_details")
    return found if isinstance(found, dict) else {}


def counted(raw: dict[str, Any], *names: str) -> int | None:
    """Return the first count of tokens among these names; None if there is no number of zero or more."""
    for name in names:
        value = raw.get(name)
        if isinstance(value, str) and re.fullmatch(r"\d{1,18}", value, re.ASCII):
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None
