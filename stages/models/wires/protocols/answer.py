"""Parts of answers that all wires read alike: tool calls, counts of tokens, failures within a success. No I/O."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from langchain_core.messages import AIMessage, InvalidToolCall, ToolCall
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult

from schemas.errors import NoAnswer

_STATUS_OF_WORD = {
    "rate_limit_exceeded": 429, "rate_limited": 429, "too_many_requests": 429, "resource_exhausted": 429,
    "rate_limit_error": 429, "insufficient_quota": 429, "overloaded_error": 529, "overloaded": 529, "unavailable": 503,
    "server_error": 500, "api_error": 500, "timeout_error": 504, "deadline_exceeded": 504, "internal": 500,
    "invalid_api_key": 401, "unauthenticated": 401, "authentication_error": 401, "permission_denied": 403,
    "permission_error": 403, "billing_error": 402, "model_not_found": 404, "not_found_error": 404, "not_found": 404,
    "invalid_request_error": 400, "invalid_argument": 400,
}  # fmt: skip


def result_of_parts(
    texts: Sequence[str],
    content: Sequence[dict[str, Any]],
    calls: "ToolCalls",
    metadata: dict[str, Any],
    found: UsageMetadata | None,
) -> ChatResult:
    """Return an answer that came in parts: its text, where all of `content` is text (or tools that it calls), else the
    parts as they are."""
    plain = all(part["type"] in ("text", "tool_use") for part in content)
    message = AIMessage(
        content="".join(texts) if plain else list(content),
        response_metadata=metadata,
        tool_calls=calls.valid,
        invalid_tool_calls=calls.invalid,
        usage_metadata=found,
    )
    return chat_result(message)


def chat_result(message: AIMessage) -> ChatResult:
    return ChatResult(generations=[ChatGeneration(message=message)])


def shown(answer: Any) -> str:
    """Return the beginning of an answer, as rejects show it."""
    return orjson.dumps(answer, default=str)[:2000].decode("utf-8", "replace")


def no_completion_in(answer: Mapping[str, Any], what: str, *, billed: bool = True) -> NoAnswer:
    return NoAnswer(f"the provider's answer has no {what}", kind="empty_answer", raw=shown(answer), billed=billed)


class ToolCalls:
    """The tool calls of an answer, and those whose arguments are no JSON object."""

    def __init__(self) -> None:
        self.valid: list[ToolCall] = []
        self.invalid: list[InvalidToolCall] = []

    def add(self, name: Any, arguments: Any, id: Any) -> None:
        """Add a call; `arguments`: an object, or its JSON text."""
        raw = arguments
        if not isinstance(arguments, dict):
            try:
                arguments = orjson.loads(raw or "{}")
            except (orjson.JSONDecodeError, TypeError):
                arguments = None
        if name and isinstance(arguments, dict):
            self.valid.append(ToolCall(name=name, args=arguments, id=id, type="tool_call"))
        else:
            why = "arguments are not a JSON object"
            self.invalid.append(InvalidToolCall(name=name, args=str(raw), id=id, error=why, type="invalid_tool_call"))


# Usage ---------------------------------------------------------------------------------------------------------------


def counted(raw: Any, *names: str) -> int | None:
    """Return the first count of tokens among these names; None if there is no number of zero or more."""
    if not isinstance(raw, Mapping):
        return None
    for name in names:
        value = raw.get(name)
        if isinstance(value, str) and re.fullmatch(r"\d{1,18}", value, re.ASCII):
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None


def usage(
    read: int | None,
    wrote: int | None,
    *,
    cached: int | None = None,
    cache_written: Sequence[int | None] = (),
    reasoning: int | None = None,
) -> UsageMetadata | None:
    """Return tokens as LangChain counts them: the input holds what the cache gave and took, the output the reasoning;
    None without a count of either. `cache_written`: for five minutes, and for an hour."""
    if read is None and wrote is None:
        return None
    found = UsageMetadata(input_tokens=read or 0, output_tokens=wrote or 0, total_tokens=(read or 0) + (wrote or 0))
    details: dict[str, int] = {}
    if cached:
        details["cache_read"] = cached
    short, hour = (*cache_written, None, None)[:2]
    if short or hour:
        details["cache_creation"] = (short or 0) + (hour or 0)
    if hour:
        details["ephemeral_1h_input_tokens"] = hour
    if details:
        found["input_token_details"] = InputTokenDetails(**details)  # type: ignore[typeddict-item]
    if reasoning:
        found["output_token_details"] = OutputTokenDetails(reasoning=reasoning)
    return found


# A failure within a success ------------------------------------------------------------------------------------------


def failure_in(answer: dict[str, Any], completion: str) -> tuple[int, str] | None:
    """Return the status and body of a failure that was sent as a success, in any shape; None for a completion, which
    has the key `completion`."""
    if answer.get(completion):
        return None
    error = next((answer[name] for name in ("error", "errors", "detail") if answer.get(name)), None)
    is_error = answer.get("object") == "error" or answer.get("type") == "error"
    if error is None and (is_error or ("message" in answer and completion not in answer)):
        error = answer.get("message") or answer
    if error is None:
        return None
    status = _status_in(error) or _status_in(answer) or 502
    text = error if isinstance(error, str) else orjson.dumps(answer, default=str).decode()
    return status, text


def status_of_word(word: str) -> int | None:
    """Return the HTTP status that a provider's word for an error stands for."""
    return _STATUS_OF_WORD.get(word.lower())


def _status_in(error: Any) -> int | None:
    """Return the status in an error's body, written as a number or a word."""
    if isinstance(error, list) and error:
        return _status_in(error[0])
    if not isinstance(error, dict):
        return None
    for name in ("code", "status", "status_code", "statusCode", "http_status", "type"):
        value = error.get(name)
        if isinstance(value, str):
            value = int(value) if value.isdecimal() else status_of_word(value)
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value < 600:
            return value
    return _status_in(error["error"]) if isinstance(error.get("error"), dict) else None
