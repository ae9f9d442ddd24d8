"""Messages as the Chat Completions API writes them, and its answers as LangChain messages. No I/O."""

import re
from typing import Any

import orjson
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, InvalidToolCall, ToolCall, ToolMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult

from schemas.errors import RowError

_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}
_SCHEMA_WORDS = re.compile(r"response_format|json_schema|structured.?output", re.I)
_REFUSAL_WORDS = re.compile(
    r"not support|unsupported|unavailable|unknown|unrecogni[sz]ed|not permitted|not allowed|unexpected"
    r"|should be|must be",
    re.I,
)


CUT_OFF = frozenset(("length", "max_tokens", "model_length"))


def finish_of(message: AIMessage) -> str:
    """Why an answer ended, in lower case, wherever its provider says so."""
    said = message.response_metadata
    return str(said.get("finish_reason") or said.get("stop_reason") or said.get("stopReason") or "").lower()


def wire(message: BaseMessage) -> dict[str, Any]:
    """A LangChain message in the API's form."""
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
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise RowError(
            "the provider's answer has no choices", kind="empty_answer", raw=orjson.dumps(answer)[:2000].decode()
        )
    choice = choices[0]
    said = choice.get("message") or {}
    metadata = {
        "finish_reason": choice.get("finish_reason"),
        "model_name": answer.get("model", model),
        "request_id": request_id or answer.get("id"),
    }
    extra = {"refusal": said["refusal"]} if said.get("refusal") else {}
    calls, invalid = _tool_calls(said.get("tool_calls") or [])
    message = AIMessage(
        content=said.get("content") or "",
        additional_kwargs=extra,
        response_metadata=metadata,
        tool_calls=calls,
        invalid_tool_calls=invalid,
        usage_metadata=_usage(answer.get("usage")),
    )
    return ChatResult(generations=[ChatGeneration(message=message)])


def _tool_calls(raw: list[dict[str, Any]]) -> tuple[list[ToolCall], list[InvalidToolCall]]:
    calls: list[ToolCall] = []
    invalid: list[InvalidToolCall] = []
    for call in raw:
        function = call.get("function") or {}
        name, given = function.get("name"), function.get("arguments") or "{}"
        try:
            arguments = orjson.loads(given)
        except orjson.JSONDecodeError:
            arguments = None
        if name and isinstance(arguments, dict):
            calls.append(ToolCall(name=name, args=arguments, id=call.get("id"), type="tool_call"))
        else:
            why = "arguments are not a JSON object"
            invalid.append(
                InvalidToolCall(name=name, args=str(given), id=call.get("id"), error=why, type="invalid_tool_call")
            )
    return calls, invalid


def _usage(raw: dict[str, Any] | None) -> UsageMetadata | None:
    if not raw:
        return None
    given, got = raw.get("prompt_tokens") or 0, raw.get("completion_tokens") or 0
    usage = UsageMetadata(input_tokens=given, output_tokens=got, total_tokens=given + got)
    cached = (raw.get("prompt_tokens_details") or {}).get("cached_tokens")
    reasoning = (raw.get("completion_tokens_details") or {}).get("reasoning_tokens")
    if cached:
        usage["input_token_details"] = {"cache_read": cached}
    if reasoning:
        usage["output_token_details"] = {"reasoning": reasoning}
    return usage


def parsed(raw: bytes) -> dict[str, Any]:
    try:
        answer = orjson.loads(raw)
        if isinstance(answer, dict):
            return answer
    except orjson.JSONDecodeError:
        pass
    raise malformed(raw)


def malformed(raw: bytes) -> RowError:
    return RowError(
        "the provider's answer is not the JSON of a completion",
        kind="malformed_response",
        raw=raw[:2000].decode("utf-8", "replace"),
    )


# Endpoints without schemas --------------------------------------------------------------------------------------------


def refuses_schemas(exc: RowError) -> bool:
    """A 400 about `response_format` as such; not one about what is wrong with our schema."""
    said = exc.message
    return bool(
        exc.kind == "bad_request"
        and _SCHEMA_WORDS.search(said)
        and _REFUSAL_WORDS.search(said)
        and not re.search(r"invalid schema", said, re.I)
    )


def asked_in_words(payload: dict[str, Any]) -> dict[str, Any]:
    """The same request with its schema in a system message."""
    wanted = payload["response_format"]
    schema = (wanted.get("json_schema") or {}).get("schema") if isinstance(wanted, dict) else None
    words = "Answer with one JSON object and nothing else."
    if schema is not None:
        words += f" It must fit this JSON schema:\n{orjson.dumps(schema).decode()}"
    first, *rest = payload["messages"]
    if first["role"] == "system" and isinstance(first["content"], str):
        messages = [{**first, "content": f"{first['content']}\n\n{words}"}, *rest]
    else:
        messages = [{"role": "system", "content": words}, first, *rest]
    return {**{k: v for k, v in payload.items() if k != "response_format"}, "messages": messages}
