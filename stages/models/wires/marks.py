"""Marks for the cache of a provider: at the end of what requests have in common. No I/O.

In the canonical request a mark is `cache_control`, Anthropic's own, from which the wires write theirs, or OpenAI's
`prompt_cache_breakpoint`.
"""

from collections.abc import Sequence
from typing import Any

import orjson
from langchain_core.messages import BaseMessage

from schemas.digests import digest
from stages.models.prompt_cache import prefix
from stages.models.wires.facts import Caching

MARKS = ("cache_control", "prompt_cache_breakpoint")
_OPTIONS = "prompt_cache_options"
_AROUND = ("tools", "response_format")  # they come before the messages


def with_marks(payload: dict[str, Any], messages: Sequence[BaseMessage], caching: Caching, key: bool) -> dict[str, Any]:
    """Return a request with a mark at the end of its prefix, if that is long enough to be cached; `key`: the provider
    takes `prompt_cache_key`. Where it would cache as it likes and bill that, it is told to cache nothing else."""
    end = prefix.end_of(messages)
    if caching.by == "breakpoint":
        payload = {_OPTIONS: {"mode": "explicit"}, **payload}
    if end is None or not prefix.is_ours(messages, end):
        return payload
    begin = orjson.dumps(prefix.part_of(payload["messages"], end))
    around = orjson.dumps([payload.get(name) for name in _AROUND], default=str)
    if not prefix.is_long_enough(len(begin) + len(around), caching.least):
        return payload
    if key:
        payload = {"prompt_cache_key": digest(begin, around)[:32], **payload}
    if caching.by == "itself":
        return payload
    mark = {"cache_control": {"type": "ephemeral"}} if caching.by == "mark" else {
        "prompt_cache_breakpoint": {"mode": "explicit"},
    }  # fmt: skip
    sent = list(payload["messages"])
    sent[end.place] = {**sent[end.place], "content": _divided(sent[end.place]["content"], end.length, mark)}
    return {**payload, "messages": sent}


def _divided(text: str, length: int, mark: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a text as its common part, which has the mark, and the rest."""
    parts = [{"type": "text", "text": text[:length], **mark}]
    return [*parts, {"type": "text", "text": text[length:]}] if text[length:] else parts


def without_marks(payload: dict[str, Any]) -> dict[str, Any]:
    """Return a request without marks, for a server that refuses them."""
    plain = {name: value for name, value in payload.items() if name != _OPTIONS}
    return {**plain, "messages": [_without_mark(message) for message in payload["messages"]]}


def _without_mark(message: dict[str, Any]) -> dict[str, Any]:
    content = message["content"]
    if not isinstance(content, list) or not any(map(is_marked, content)):
        return message
    parts = [{name: value for name, value in part.items() if name not in MARKS} if is_marked(part) else part
             for part in content]  # fmt: skip
    if all(isinstance(part, dict) and part.get("type") == "text" for part in parts):
        return {**message, "content": "".join(part["text"] for part in parts)}
    return {**message, "content": parts}


def is_marked(part: Any) -> bool:
    return isinstance(part, dict) and not part.keys().isdisjoint(MARKS)
