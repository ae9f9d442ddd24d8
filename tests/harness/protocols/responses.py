"""OpenAI's Responses API, as strict as the real one where that is known."""

from __future__ import annotations

from typing import Any

Body = dict[str, Any]
_FIELDS = frozenset((
    "model", "input", "instructions", "max_output_tokens", "metadata", "parallel_tool_calls", "prompt_cache_key",
    "prompt_cache_options",
    "reasoning", "safety_identifier", "service_tier", "store", "stream", "temperature", "text", "tool_choice", "tools",
    "top_logprobs", "top_p", "truncation", "user", "include", "max_tool_calls",
))  # fmt: skip


def request(body: Body, path: str) -> Body:
    for name in body:
        if name not in _FIELDS:
            raise ValueError(f"Unknown parameter: '{name}'.")
    out: Body = {"model": body["model"], "messages": list(_messages(body["input"]))}
    if tools := [tool for tool in body.get("tools") or () if tool["type"] == "function"]:
        out["tools"] = [{"type": "function", "function": tool} for tool in tools]
    if any(tool["type"] == "web_search" for tool in body.get("tools") or ()):
        out["web_search"] = 0
    if isinstance(choice := body.get("tool_choice"), dict):
        out["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
    elif choice is not None:
        out["tool_choice"] = choice
    form = (body.get("text") or {}).get("format") or {}
    if form.get("type") == "json_schema":
        out["response_format"] = {"type": "json_schema", "json_schema": form}
    if "max_output_tokens" in body:
        out["max_tokens"] = body["max_output_tokens"]
    for name in ("temperature", "top_p"):
        if name in body:
            out[name] = body[name]
    return out


def _messages(items: Any) -> Any:
    if isinstance(items, str):
        yield {"role": "user", "content": items}
        return
    called: Body | None = None
    for item in items:
        kind = item.get("type", "message")
        if kind == "function_call":
            call = {"id": item["call_id"], "type": "function",
                    "function": {"name": item["name"], "arguments": item["arguments"]}}  # fmt: skip
            if called is None:
                called = {"role": "assistant", "content": None, "tool_calls": []}
                yield called
            called["tool_calls"].append(call)
            continue
        called = None
        if kind == "function_call_output":
            yield {"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]}
        elif kind == "message":
            yield {"role": item["role"], "content": _text(item["content"])}
        elif kind not in ("reasoning", "web_search_call"):
            raise ValueError(f"Invalid value: '{kind}'.")


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def answer(completion: Body) -> Body:
    usage = completion["usage"]
    choice: Body = completion["choices"][0] if completion["choices"] else {"message": {}, "finish_reason": "stop"}
    message, id = choice["message"], completion["id"].replace("chatcmpl", "resp")
    output: list[Body] = []
    if message.get("thinking"):
        output.append({"type": "reasoning", "id": f"rs_{id}", "summary": [], "encrypted_content": message["thinking"]})
    search = message.get("search") or {"queries": [], "sources": []}
    for number, query in enumerate(search["queries"]):
        output.append({"type": "web_search_call", "id": f"ws_{number}_{id}", "status": "completed",
                       "action": {"type": "search", "query": query}})  # fmt: skip
    if search["queries"]:
        output.append({"type": "web_search_call", "id": f"ws_{id}", "status": "completed",
                       "action": {"type": "open_page", "url": search["sources"][0]["url"]}})  # fmt: skip
    if message.get("content") or message.get("refusal"):
        notes = [{"type": "url_citation", "url": source["url"], "title": source["title"],
                  "start_index": (message.get("content") or "").find(source["text"]),
                  "end_index": (message.get("content") or "").find(source["text"]) + len(source["text"])}
                 for source in search["sources"]]  # fmt: skip
        text = {"type": "output_text", "text": message.get("content"), "annotations": notes, "logprobs": []}
        part = {"type": "refusal", "refusal": message["refusal"]} if message.get("refusal") else text
        output.append({"type": "message", "id": f"msg_{id}", "role": "assistant", "status": "completed",
                       "content": [part]})  # fmt: skip
    for call in message.get("tool_calls") or ():
        output.append({"type": "function_call", "id": f"fc_{id}", "call_id": call["id"], "status": "completed",
                       **call["function"]})  # fmt: skip
    cut = choice["finish_reason"] == "length"
    of_input, of_output = usage.get("prompt_tokens_details") or {}, usage.get("completion_tokens_details") or {}
    return {
        "id": id, "object": "response", "created_at": 1_760_000_000, "model": completion["model"], "output": output,
        "status": "incomplete" if cut else "completed", "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None, "instructions": None, "metadata": {},
        "parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0,
        "usage": {
            "input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"],
            "total_tokens": usage["prompt_tokens"] + usage["completion_tokens"],
            "input_tokens_details": {"cached_tokens": of_input.get("cached_tokens", 0),
                                     "cache_write_tokens": of_input.get("cache_write_tokens", 0)},
            "output_tokens_details": {"reasoning_tokens": of_output.get("reasoning_tokens", 0)},
        },
    }  # fmt: skip
