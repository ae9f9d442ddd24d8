"""Tokens of a call, as the provider counts them if that is plausible, else estimated."""

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import AIMessage

from stages.limits.prices import WEB_SEARCHES
from stages.models.request import ModelRequest
from stages.models.wires.protocols.search import TURNS
from stages.text.tokens import tokens, tokens_of_bytes

# What providers add to a request: templates, tools in words, instructions of their own.
_ADDED = 10_000
_MEDIA = 5_000_000  # pictures and sound are not counted by their bytes here
_SEARCHED = 2_000_000  # of results of web searches, which are input, too
_VECTOR = 1  # the cap of embedding models, whose answers are no tokens
_LONGEST = 400_000  # of an answer without a cap, reasoning included


def usage_of(message: AIMessage, request: ModelRequest, cap: int | None) -> dict[str, int]:
    """Return tokens of input and output, and how many of them were read from or written to a cache, or were reasoning;
    the images of the request, if it has any; `estimated` if the reported numbers are not plausible: a token takes a
    byte at least, and an answer is about as long as its cap at most. Implausible usage is removed from the message, so
    that no graph relies on it."""
    reported = message.usage_metadata
    read, wrote = (reported["input_tokens"], reported["output_tokens"]) if reported is not None else (0, 0)
    searches = int(message.response_metadata.get(WEB_SEARCHES) or 0)
    counts = {WEB_SEARCHES: searches, "images": request.images}
    usage: dict[str, int] = {name: count for name, count in counts.items() if count}
    plausible_input = 0 < read <= (_MEDIA if request.media else request.size + (_SEARCHED if searches else _ADDED))
    has_output = wrote > 0 or cap == _VECTOR or not _estimated(message)
    turns = int(message.response_metadata.get(TURNS) or 1)
    plausible_output = has_output and 0 <= wrote <= turns * (_LONGEST if cap is None else 2 * cap + 1_000)
    usage["input"] = read if plausible_input else tokens_of_bytes(request.size)
    usage["output"] = wrote if plausible_output else _estimated(message)
    if reported is None or not (plausible_input and plausible_output):
        message.usage_metadata = None
        return {**usage, "estimated": 1}
    of_input: Mapping[str, Any] = reported.get("input_token_details") or {}
    cached = of_input.get("cache_read") or 0
    hour = of_input.get("ephemeral_1h_input_tokens") or 0
    written = max(of_input.get("cache_creation") or 0, (of_input.get("ephemeral_5m_input_tokens") or 0) + hour)
    reasoning = (reported.get("output_token_details") or {}).get("reasoning") or 0
    if 0 < cached <= read:
        usage["cached_input"] = cached
    if 0 < written <= read - cached:
        usage["cache_write"] = written
        if 0 < hour <= written:
            usage["cache_write_1h"] = hour
    if 0 < reasoning <= wrote:
        usage["reasoning"] = reasoning
    return usage


def _estimated(message: AIMessage) -> int:
    output = str(message.content) + "".join(str(call["args"]) for call in message.tool_calls)
    return tokens(output)
