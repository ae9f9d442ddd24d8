"""Anthropic's Messages API, as strict as the real one where that is known."""

from __future__ import annotations

import json
import re
from typing import Any

Body = dict[str, Any]
_FIELDS = frozenset((
    "model", "max_tokens", "messages", "system", "stop_sequences", "temperature", "top_k", "top_p", "tools",
    "tool_choice", "thinking", "output_config", "metadata", "service_tier", "stream", "cache_control", "container",
    "inference_geo", "speed",
))  # fmt: skip
_CHOICES = {"any": "required", "auto": "auto", "none": "none"}
_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 429: "rate_limit_error", 500: "api_error", 504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip
_BOUNDS = (
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "pattern", "maxItems",
)  # fmt: skip


def request(body: Body, path: str) -> Body:
    for name in body:
        if name not in _FIELDS:
            raise ValueError(f"{name}: Extra inputs are not permitted")
    if not isinstance(body["max_tokens"], int):
        raise ValueError("max_tokens: Field required")
    forced = (body.get("tool_choice") or {}).get("type") in ("any", "tool")
    if forced and (body.get("thinking") or {}).get("type") in ("enabled", "adaptive"):
        raise ValueError("Thinking may not be enabled when tool_choice forces tool use.")
    if (body.get("thinking") or {}).get("budget_tokens", 0) >= body["max_tokens"]:
        raise ValueError("`max_tokens` must be greater than `thinking.budget_tokens`.")
    out: Body = {"model": body["model"], "max_tokens": body["max_tokens"], "messages": _messages(body)}
    if "tools" in body:
        out["tools"] = [_tool(tool) for tool in body["tools"] if "input_schema" in tool]
        if any(tool.get("type") == "web_search_20250305" for tool in body["tools"]):
            out["web_search"] = sum(_has_paused(message) for message in body["messages"][-1:])
    if (choice := body.get("tool_choice")) is not None:
        named = {"type": "function", "function": {"name": choice.get("name")}}
        out["tool_choice"] = named if choice["type"] == "tool" else _CHOICES[choice["type"]]
    if (form := (body.get("output_config") or {}).get("format")) is not None:
        _refuse_bounds(form["schema"])
        declared = {"name": "answer", "schema": as_read(form["schema"]), "strict": True}
        out["response_format"] = {"type": form["type"], "json_schema": declared}
    for name in ("temperature", "top_p", "top_k", "stop_sequences", "thinking", "stream"):
        if name in body:
            out[name] = body[name]
    return out


def _has_paused(message: Body) -> int:
    """How many turns of an answer are given back, to be gone on with."""
    blocks = message["content"] if message["role"] == "assistant" and isinstance(message["content"], list) else []
    return len({block["id"].split("_")[1] for block in blocks if block["type"] == "server_tool_use"})


def _refuse_bounds(schema: Any) -> None:
    if isinstance(schema, list):
        for part in schema:
            _refuse_bounds(part)
    if not isinstance(schema, dict):
        return
    for name in _BOUNDS:
        if name in schema and not isinstance(schema[name], dict):
            raise ValueError(f"output_config.format.schema: For '{schema.get('type')}' type, property '{name}' is not"
                             " supported")  # fmt: skip
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        raise ValueError("output_config.format.schema: For 'object' type, 'additionalProperties' must be false")
    for part in schema.values():
        _refuse_bounds(part if not isinstance(part, dict) else [part, *part.values()])


def as_read(schema: Any) -> Any:
    """A schema as a model understands it, who reads in descriptions what the schema could not say: {minimum: 1}."""
    if isinstance(schema, list):
        return [as_read(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    read = {name: as_read(part) for name, part in schema.items()}
    words = schema.get("description")
    for name, value in _WRITTEN.findall(words) if isinstance(words, str) else ():
        read[name] = json.loads(value)
    return read


_WRITTEN = re.compile(r"(m[a-zA-Z]+|exclusiveM[a-z]+): (-?\d+(?:\.\d+)?)(?=[,}])")


def _tool(tool: Body) -> Body:
    if tool.get("strict"):
        _refuse_bounds(tool["input_schema"])
    function = {"name": tool["name"], "parameters": as_read(tool["input_schema"])}
    return {"type": "function", "function": {**function, "description": tool.get("description", "")}}


def _messages(body: Body) -> list[Body]:
    out: list[Body] = []
    if system := body.get("system"):
        out.append({"role": "system", "content": system if isinstance(system, str) else _texts(system)})
    called: set[str] = set()
    for message in body["messages"]:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        blocks = [block for block in blocks if block["type"] not in ("server_tool_use", "web_search_tool_result")]
        if not blocks and content and not isinstance(content, str):
            continue  # a turn of searches alone
        if not blocks or any(block["type"] == "text" and not block["text"] for block in blocks):
            raise ValueError("messages: text content blocks must be non-empty")
        results = [block for block in blocks if block["type"] == "tool_result"]
        uses = [block for block in blocks if block["type"] == "tool_use"]
        for result in results:
            if result["tool_use_id"] not in called:
                raise ValueError("messages: unexpected `tool_use_id` found in `tool_result` blocks")
            out.append({"role": "tool", "tool_call_id": result["tool_use_id"], "content": _plain(result["content"])})
        called |= {use["id"] for use in uses}
        if (uses or results) and not body.get("tools"):
            raise ValueError("Requests which include `tool_use` or `tool_result` blocks must define tools.")
        rest = [block for block in blocks if block["type"] not in ("tool_result", "tool_use")]
        if rest or uses:
            turn: Body = {"role": message["role"], "content": _texts(rest)}
            if uses:
                turn["tool_calls"] = [_call(use) for use in uses]
            out.append(turn)
    return out


def _plain(content: Any) -> str:
    return content if isinstance(content, str) else _texts(content)


def _texts(blocks: list[Body]) -> str:
    return "".join(block["text"] for block in blocks if block["type"] == "text")


def _call(use: Body) -> Body:
    function = {"name": use["name"], "arguments": json.dumps(use["input"])}
    return {"id": use["id"], "type": "function", "function": function}


def answer(completion: Body) -> Body:
    choices = completion["choices"]
    message = choices[0]["message"] if choices else {}
    reason = choices[0]["finish_reason"] if choices else "stop"
    content: list[Body] = []
    if message.get("thinking"):
        content.append({"type": "thinking", "thinking": message["thinking"], "signature": "c2lnbmVk"})
    search = message.get("search") or {}
    searched = _searched(search) if search else []
    paused = search.get("turn", 0) < search.get("pauses", 0)
    content += searched
    if message.get("content") and not paused:
        content.append({"type": "text", "text": message["content"], **_cited(search)})
    for call in message.get("tool_calls") or ():
        content.append({"type": "tool_use", "id": call["id"], "name": call["function"]["name"],
                        "input": _object(call["function"]["arguments"])})  # fmt: skip
    stop = {"length": "max_tokens", "stop": "end_turn", "tool_calls": "tool_use"}.get(reason, reason)
    if any(block["type"] == "tool_use" for block in content):
        stop = "tool_use"
    if message.get("refusal"):
        stop = "refusal"
    if paused:
        stop = "pause_turn"
    usage = completion["usage"]
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    written = (usage.get("prompt_tokens_details") or {}).get("cache_write_tokens", 0)
    return {
        "id": completion["id"].replace("chatcmpl", "msg"), "type": "message", "role": "assistant",
        "model": completion["model"], "content": content, "stop_reason": stop, "stop_sequence": None,
        "usage": {
            "input_tokens": usage["prompt_tokens"] - cached - written, "output_tokens": usage["completion_tokens"],
            "cache_read_input_tokens": cached, "cache_creation_input_tokens": written,
            "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
            "service_tier": "standard",
            **({"server_tool_use": {"web_search_requests": len(searched) // 2, "web_fetch_requests": 0}}
               if search else {}),
            "output_tokens_details": {
                "thinking_tokens": (usage.get("completion_tokens_details") or {}).get("reasoning_tokens", 0)
            },
        },
    }  # fmt: skip


def _searched(search: Body) -> list[Body]:
    """The searches of a turn: all in the first, and one more in each after a pause."""
    queries = search["queries"] if not search["turn"] else search["queries"][:1]
    results = [{"type": "web_search_result", "url": source["url"], "title": source["title"], "page_age": None,
                "encrypted_content": "c2VjcmV0"} for source in search["sources"]]  # fmt: skip
    blocks: list[Body] = []
    for number, query in enumerate(queries):
        id = f"srvtoolu_{search['turn']}_{number}"
        blocks.append({"type": "server_tool_use", "id": id, "name": "web_search", "input": {"query": query}})
        blocks.append({"type": "web_search_tool_result", "tool_use_id": id, "content": results})
    return blocks


def _cited(search: Body) -> Body:
    cited = [{"type": "web_search_result_location", "url": source["url"], "title": source["title"],
              "encrypted_index": "aW5kZXg", "cited_text": source["text"]}
             for source in search.get("sources") or ()]  # fmt: skip
    return {"citations": cited} if cited else {}


def _object(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return {}


def error(status: int, message: str, code: str | None) -> Body:
    kind = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_scripted"}
