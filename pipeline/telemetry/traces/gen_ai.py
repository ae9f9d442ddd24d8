"""Calls of models and tools as attributes, by OpenTelemetry's conventions for generative AI; their names are checked
against the conventions' own package by a test. What these do not know, such as money, has names of ours, `tandem.…`.

Texts are among them only where they are allowed.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from stages.observer import Call, Prompt, ToolCall

EMBEDDINGS, CHAT, TOOL = "embeddings", "chat", "execute_tool"
# Providers as specs name them, where the conventions have another word.
_PROVIDERS = {
    "google": "gcp.gemini", "google_genai": "gcp.gemini", "gemini": "gcp.gemini", "google_vertexai": "gcp.vertex_ai",
    "bedrock": "aws.bedrock", "bedrock_converse": "aws.bedrock", "azure": "azure.ai.openai",
    "azure_openai": "azure.ai.openai", "mistral": "mistral_ai", "mistralai": "mistral_ai", "xai": "x_ai",
}  # fmt: skip
_USAGE = {
    "input": "gen_ai.usage.input_tokens",
    "output": "gen_ai.usage.output_tokens",
    "cached_input": "gen_ai.usage.cache_read.input_tokens",
    "cache_write": "gen_ai.usage.cache_creation.input_tokens",
    "reasoning": "gen_ai.usage.reasoning.output_tokens",
}
_PARAMS = {
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "seed": "gen_ai.request.seed",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
}
_FINISH = ("finish_reason", "stop_reason", "stopReason")


def request_attributes(operation: str, model: str) -> dict[str, Any]:
    """Return what is known of a call before its answer. `model`: as specs name it, `provider:name`."""
    provider, colon, name = model.partition(":")
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": _PROVIDERS.get(provider, provider) if colon else "unknown",
        "gen_ai.request.model": name if colon else model,
    }


def call_attributes(operation: str, call: Call, prompt: Prompt | None, *, content: bool) -> dict[str, Any]:
    """Return the attributes of an answered call; `content`: with the texts of its request and answer."""
    by = call.by or {}
    answer = orjson.loads(call.raw) if call.raw is not None else {}
    found = {
        **request_attributes(operation, call.model),
        "gen_ai.response.model": by.get("model"),
        "gen_ai.response.id": call.request_id,
        **{name: call.usage[kind] for kind, name in _USAGE.items() if kind in call.usage},
        "tandem.cost_usd": call.cost_usd,
        "tandem.tier": by.get("tier"),
        "server.address": by.get("endpoint"),
    }
    if finish := finish_of(answer):
        found["gen_ai.response.finish_reasons"] = (finish,)
    if prompt is not None:
        common = orjson.loads(prompt.common)
        found.update(_params(common))
        if content:
            found.update(_input(common.get("messages") or [], orjson.loads(prompt.messages)))
    if content and operation == CHAT:
        found["gen_ai.output.messages"] = _json([{**_message(_as_wire(answer)), "finish_reason": finish or "stop"}])
    return found


def tool_attributes(tool: ToolCall, *, content: bool) -> dict[str, Any]:
    """Return the attributes of a call of a tool; `content`: with its arguments and its result."""
    found: dict[str, Any] = {
        "gen_ai.operation.name": TOOL,
        "gen_ai.tool.name": tool.name,
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": tool.id or None,
    }
    if content:
        found["gen_ai.tool.call.arguments"] = _json(tool.arguments) if tool.arguments is not None else None
        found["gen_ai.tool.call.result"] = tool.result
    return found


def finish_of(answer: Mapping[str, Any]) -> str:
    """Return the finish reason of an answer as the provider words it; "" if it has none."""
    metadata = answer.get("response_metadata") or {}
    return next((str(metadata[name]) for name in _FINISH if metadata.get(name)), "")


def _params(common: Mapping[str, Any]) -> dict[str, Any]:
    model = common.get("model")
    params = model.get("params") if isinstance(model, dict) else None
    known = params if isinstance(params, dict) else {}
    return {name: known[key] for key, name in _PARAMS.items() if isinstance(known.get(key), int | float)}


def _input(first: list[Any], rest: list[Any]) -> dict[str, Any]:
    """Return the messages of a request, as the journal keeps them: those of the system apart, as the conventions do."""
    messages = [message for message in (*first, *rest) if isinstance(message, dict)]
    system = [part for one in messages if one.get("role") == "system" for part in _parts(one)]
    others = [_message(one) for one in messages if one.get("role") != "system"]
    found = {"gen_ai.input.messages": _json(others)}
    return {**found, "gen_ai.system_instructions": _json(system)} if system else found


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": message.get("role", "user"), "parts": list(_parts(message))}


def _parts(message: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    content = message.get("content")
    if message.get("role") == "tool":
        yield {"type": "tool_call_response", "id": message.get("tool_call_id"), "response": content}
        return
    for part in [content] if isinstance(content, str) else content or ():
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None
        if text is not None:
            yield {"type": "text", "content": text}
        elif isinstance(part, dict):  # of another kind: a picture, a file
            yield {**part, "type": str(part.get("type", "generic"))}
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        arguments = function.get("arguments")
        yield {"type": "tool_call", "id": call.get("id"), "name": function.get("name"), "arguments": arguments}


def _as_wire(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored answer in the form of a request's messages."""
    calls = [
        {"id": call.get("id"), "function": {"name": call.get("name"), "arguments": call.get("args")}}
        for call in (*(answer.get("tool_calls") or ()), *(answer.get("invalid_tool_calls") or ()))
    ]
    return {"role": "assistant", "content": answer.get("content"), "tool_calls": calls}


def _json(value: Any) -> str:
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
