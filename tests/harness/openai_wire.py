"""OpenAI's request and response bodies, as bytes, built without any I/O."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import orjson

from tests.harness.answers import Schema, answer_for, wrong_answer_for
from tests.harness.protocols import CHAT, Protocol
from tests.harness.script import Rule

_MARKER = "[[answer:"
_CALL = "[[call:"
_LOGPROB = "[[logprob:"
_SEARCH = "[[search:"  # {"queries": […], "sources": [{"url", "title", "text"}], "pauses": 0}, where a model may search
_MEGABYTE = b"x" * 1_000_000
_CHAT_FIELDS = ("messages", "model", "response_format", "tools")
_EMBEDDING_FIELDS = ("input", "model", "dimensions")


@dataclass(slots=True)
class Asked:
    """A request as the server looks at it. `digest` is that of the canonical content, not of the whole body."""

    data: dict[str, Any]
    embedding: bool
    digest: str
    model: str
    message: str  # last user message, or the first embedding input
    ends_with_user: bool
    prompt_tokens: int
    turns: int = 0  # messages of the assistant that call tools
    protocol: Protocol = CHAT
    cached: int = 0  # tokens, in front, that are read from the provider's cache
    cache_written: int = 0

    @classmethod
    def parse(cls, body: bytes, *, embedding: bool, protocol: Protocol = CHAT, path: str = "") -> Asked:
        data = protocol.request(orjson.loads(body), path)
        names = _EMBEDDING_FIELDS if embedding else _CHAT_FIELDS
        content = {name: data[name] for name in names if data.get(name) is not None}
        texts = _inputs(data) if embedding else [_text(message) for message in data["messages"]]
        users = texts[:1] if embedding else _of_users(data["messages"])
        return cls(
            data=data,
            embedding=embedding,
            digest=hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest(),
            model=str(data.get("model", "")),
            message=users[-1] if users else "",
            ends_with_user=embedding or data["messages"][-1].get("role") == "user",
            prompt_tokens=tokens("".join(texts)),
            turns=sum(bool(message.get("tool_calls")) for message in data.get("messages", ())),
            protocol=protocol,
        )

    @property
    def stream(self) -> bool:
        return bool(self.data.get("stream"))


@dataclass(slots=True)
class Reply:
    """What is sent. `fault` names the rule's action where the caller did not get a sound answer."""

    status: int
    pieces: list[bytes]
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    fault: str | None = None


def tokens(text: str) -> int:
    """Bytes / 4, rounded up."""
    return -(-len(text.encode()) // 4)


def error_reply(
    status: int, code: str | None, headers: Mapping[str, str], body: Any = None, protocol: Protocol = CHAT
) -> Reply:
    standard = protocol.error(status, f"scripted error: {code or status}", code)
    if isinstance(body, bytes):
        raw = body
    else:
        raw = body.encode() if isinstance(body, str) else orjson.dumps(standard if body is None else body)
    kind_of_body = headers.get("Content-Type", "application/json")
    return Reply(status, [raw], dict(headers), kind_of_body, fault="error")


def reply_to(asked: Asked, rule: Rule | None) -> Reply:
    """The answer to a request for which the rule, if any, wants an answer at all."""
    action = rule.action if rule else None
    if rule and action == "error":
        body = rule.body if rule.body_base64 is None else base64.b64decode(rule.body_base64)
        return error_reply(rule.error_status, rule.code, rule.headers, body, asked.protocol)
    reply = _embedded(asked) if asked.embedding else _completed(asked, rule)
    if rule:
        reply.headers.update(rule.headers)
        if action not in ("text", "tool_calls", "obey"):
            reply.fault = action
        if action == "malformed":
            whole = b"".join(reply.pieces)
            reply.pieces = [whole[: len(whole) // 2]]
        if action == "wrong_content_type":
            reply.content_type, reply.pieces = "text/html", [b"<html><body>gateway</body></html>"]
    return reply


def _completed(asked: Asked, rule: Rule | None) -> Reply:
    action = rule.action if rule else None
    message, reason = _message(asked, rule)
    content = message["content"] or ""
    spent = tokens(content or message.get("refusal") or orjson.dumps(message.get("tool_calls", "")).decode())
    if rule and action == "length":
        message["content"], reason = content[: len(content) // 2], "length"
    choices = [] if action == "empty_choices" else [{"index": 0, "message": message, "finish_reason": reason}]
    if choices and asked.data.get("logprobs") and message.get("content"):
        choices[0]["logprobs"] = {"content": _with_logprobs(message["content"], asked.message)}
    model = rule.text if rule and action == "answers_as" else asked.model
    envelope = {"id": f"chatcmpl-{asked.digest[:24]}", "created": 1_760_000_000, "model": model}
    if model != asked.model:
        envelope |= {"system_fingerprint": f"fp_{model}", "service_tier": "default"}
    if asked.data.get("service_tier") == "flex":
        envelope["service_tier"] = "flex"
    usage = _usage(asked, spent)
    if rule and action == "oversized":
        message["content"] = "@"
        spent, usage = rule.mb * 250_000, _usage(asked, rule.mb * 250_000)
    if asked.stream:
        events = list(_chunks(envelope, choices, usage if _wants_usage(asked) else None))
        return Reply(200, events, {}, "text/event-stream", asked.prompt_tokens, spent)
    completion = {**envelope, "object": "chat.completion", "choices": choices, "usage": usage}
    whole = orjson.dumps(asked.protocol.answer(completion))
    pieces = [whole]
    if rule and action == "oversized":
        head, _, tail = whole.partition(b'"@"')
        pieces = [head + b'"', *[_MEGABYTE] * rule.mb, b'"' + tail]
    return Reply(200, pieces, prompt_tokens=asked.prompt_tokens, completion_tokens=spent)


def _with_logprobs(text: str, message: str) -> list[dict[str, Any]]:
    """Tokens of three characters, each as probable as the message's `[[logprob: …]]` says."""
    logprob = float(_marked(message, _LOGPROB) or "-0.01")
    pieces = [text[at : at + 3] for at in range(0, len(text), 3)]
    return [{"token": piece, "logprob": logprob, "bytes": list(piece.encode()), "top_logprobs": []} for piece in pieces]


def _message(asked: Asked, rule: Rule | None) -> tuple[dict[str, Any], str]:
    """The assistant's message and its finish_reason."""
    action = rule.action if rule else None
    if rule and action == "refusal":
        refusal = rule.text or "I can't help with that."
        return {"role": "assistant", "content": None, "refusal": refusal}, "stop"
    if rule and action == "tool_calls":
        calls = [_tool_call(asked, call, index) for index, call in enumerate(rule.tool_calls)]
        return {"role": "assistant", "content": None, "tool_calls": calls}, "tool_calls"
    if action == "obey" and asked.ends_with_user and (wish := _marked(asked.message, _CALL)) is not None:
        return {
            "role": "assistant",
            "content": None,
            "tool_calls": [_tool_call(asked, json.loads(wish), 0)],
        }, "tool_calls"
    tool = _forced_tool(asked.data)
    content = _content(asked, rule, tool)
    if tool is not None and action != "text":
        call = _tool_call(asked, {"name": tool["name"], "arguments": content}, 0)
        return {"role": "assistant", "content": None, "tool_calls": [call]}, "stop"
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if asked.data.get("web_search") is not None and (found := _marked(asked.message, _SEARCH)) is not None:
        message["search"] = {**json.loads(found), "turn": asked.data["web_search"]}
    return message, "stop"


def _content(asked: Asked, rule: Rule | None, tool: dict[str, Any] | None) -> str:
    action = rule.action if rule else None
    if rule and action == "text":
        return rule.text
    if action == "bad_json":
        return '{"category": "bil'
    schema = tool.get("parameters", {}) if tool else _response_schema(asked.data)
    if action == "wrong_schema":
        return orjson.dumps(wrong_answer_for(schema or {})).decode()
    marked = _answer(asked)
    if marked is not None:
        return marked
    if schema is not None:
        return orjson.dumps(answer_for(schema, asked.digest)).decode()
    return f"Answer {asked.digest[:8]}."


def _answer(asked: Asked) -> str | None:
    """The JSON of the last `[[answer: …]]` in a user message."""
    texts = reversed([asked.message, *_of_users(asked.data.get("messages", []))])
    return next((found for text in texts if (found := _marked(text, _MARKER)) is not None), None)


def _marked(text: str, marker: str) -> str | None:
    """The JSON behind the last marker of a text, as it stands there."""
    _, found, rest = text.rpartition(marker)
    if not found:
        return None
    rest = rest.lstrip()
    _, end = json.JSONDecoder().raw_decode(rest)
    return rest[:end]


def _response_schema(data: dict[str, Any]) -> Schema | None:
    wanted = data.get("response_format") or {}
    if wanted.get("type") == "json_object":
        return {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
    return cast("Schema | None", (wanted.get("json_schema") or {}).get("schema"))


def _forced_tool(data: dict[str, Any]) -> dict[str, Any] | None:
    """The function that `tool_choice` forces: the named one, or the first when any is required."""
    functions = [tool["function"] for tool in data.get("tools") or () if tool.get("type") == "function"]
    choice = data.get("tool_choice")
    if isinstance(choice, dict):
        functions = [function for function in functions if function["name"] == choice["function"]["name"]]
    elif choice != "required":
        return None
    return functions[0] if functions else None


def _tool_call(asked: Asked, call: dict[str, Any], index: int) -> dict[str, Any]:
    function = call.get("function", call)
    arguments = function.get("arguments", {})
    text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
    name = call.get("id") or f"call_{asked.digest[:16]}{index}"
    return {"id": name, "type": "function", "function": {"name": function["name"], "arguments": text}}


def _chunks(envelope: dict[str, Any], choices: list[dict[str, Any]], usage: Any) -> Iterator[bytes]:
    """Server-sent events: the role, the content in three parts (or the tool calls), the end, the usage."""
    head = {**envelope, "object": "chat.completion.chunk"}
    for choice in choices:
        message, reason = choice["message"], choice["finish_reason"]
        calls = [{**call, "index": index} for index, call in enumerate(message.get("tool_calls", ()))]
        content = message.get("content") or ""
        third = len(content) // 3 + 1
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": content[at : at + third]} for at in range(0, len(content), third)]
        deltas += [{"tool_calls": calls}] if calls else []
        deltas += [{"refusal": message["refusal"]}] if message.get("refusal") else []
        for delta in deltas:
            yield _event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        yield _event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    if usage is not None:
        yield _event({**head, "choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def _embedded(asked: Asked) -> Reply:
    """One vector an input, each a function of its text; base64 where the client asks for it."""
    size = int(asked.data.get("dimensions") or 8)
    rows = []
    for index, text in enumerate(_inputs(asked.data)):
        rng = random.Random(hashlib.sha256(text.encode()).digest())
        vector = [struct.unpack("<f", struct.pack("<f", rng.uniform(-1, 1)))[0] for _ in range(size)]
        packed = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
        embedding = packed if asked.data.get("encoding_format") == "base64" else vector
        rows.append({"object": "embedding", "index": index, "embedding": embedding})
    usage = {"prompt_tokens": asked.prompt_tokens, "total_tokens": asked.prompt_tokens}
    body = orjson.dumps({"object": "list", "data": rows, "model": asked.model, "usage": usage})
    return Reply(200, [body], prompt_tokens=asked.prompt_tokens)


def _usage(asked: Asked, spent: int) -> dict[str, Any]:
    total = asked.prompt_tokens + spent
    usage: dict[str, Any] = {
        "prompt_tokens": asked.prompt_tokens, "completion_tokens": spent, "total_tokens": total,
    }  # fmt: skip
    if asked.cached or asked.cache_written:
        usage["prompt_tokens_details"] = {"cached_tokens": asked.cached, "cache_write_tokens": asked.cache_written}
    return usage


def _wants_usage(asked: Asked) -> bool:
    return bool((asked.data.get("stream_options") or {}).get("include_usage"))


def _inputs(data: dict[str, Any]) -> list[str]:
    given = data["input"]
    return [given] if isinstance(given, str) else [str(item) for item in given]


def _of_users(messages: list[dict[str, Any]]) -> list[str]:
    return [_text(message) for message in messages if message.get("role") == "user"]


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)
