"""Tokens of a call, as the provider counts them where that is plausible, else estimated."""

from langchain_core.messages import AIMessage

from stages.models.request import ModelRequest
from stages.text.tokens import tokens, tokens_of_bytes

# What providers add to a request: templates, tools in words, instructions of their own.
_ADDED = 10_000
_MEDIA = 5_000_000  # pictures and sound are not counted by their bytes here
_VECTOR = 1  # the cap of embedding models, whose answers are no tokens
_LONGEST = 400_000  # of an answer without a cap, reasoning included


def usage_of(message: AIMessage, request: ModelRequest, cap: int | None) -> dict[str, int]:
    """Input, output, cached input and reasoning tokens; `estimated` where nothing plausible is told: a token takes a
    byte at least, and an answer is no longer than its cap, give or take. What is not believed leaves the message, so
    that no graph counts on it."""
    told = message.usage_metadata
    read, wrote = (told["input_tokens"], told["output_tokens"]) if told is not None else (0, 0)
    usage: dict[str, int] = {}
    sane_read = 0 < read <= (_MEDIA if request.media else request.size + _ADDED)
    some = wrote > 0 or cap == _VECTOR or not _estimated(message)
    sane_wrote = some and 0 <= wrote <= (_LONGEST if cap is None else 2 * cap + 1_000)
    usage["input"] = read if sane_read else tokens_of_bytes(request.size)
    usage["output"] = wrote if sane_wrote else _estimated(message)
    if told is None or not (sane_read and sane_wrote):
        message.usage_metadata = None
        return {**usage, "estimated": 1}
    cached = (told.get("input_token_details") or {}).get("cache_read") or 0
    reasoning = (told.get("output_token_details") or {}).get("reasoning") or 0
    if 0 < cached <= read:
        usage["cached_input"] = cached
    if 0 < reasoning <= wrote:
        usage["reasoning"] = reasoning
    return usage


def _estimated(message: AIMessage) -> int:
    output = str(message.content) + "".join(str(call["args"]) for call in message.tool_calls)
    return tokens(output)
