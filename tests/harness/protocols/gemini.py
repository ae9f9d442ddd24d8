"""Gemini's generateContent, as strict as the real one where that is known."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.harness.protocols.anthropic import as_read

Body = dict[str, Any]
_FIELDS = frozenset((
    "contents", "systemInstruction", "generationConfig", "tools", "toolConfig", "safetySettings", "cachedContent",
    "labels", "serviceTier", "store",
))  # fmt: skip
_CONFIG = frozenset((
    "temperature", "topP", "topK", "candidateCount", "maxOutputTokens", "stopSequences", "responseMimeType",
    "responseJsonSchema", "responseSchema", "thinkingConfig", "seed", "presencePenalty", "frequencyPenalty",
    "responseLogprobs", "logprobs", "mediaResolution", "responseModalities",
))  # fmt: skip
# google/genai/types.py: what a schema of an answer may say.
_KEYWORDS = frozenset((
    "$id", "$defs", "$ref", "$anchor", "type", "format", "title", "description", "enum", "items", "prefixItems",
    "minItems", "maxItems", "minimum", "maximum", "anyOf", "oneOf", "properties", "additionalProperties", "required",
    "propertyOrdering",
))  # fmt: skip
_STATUS = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip


_AS_THEY_ARE = frozenset(("parametersJsonSchema", "responseJsonSchema", "args", "response", "labels"))


def spelled(value: Any) -> Any:
    """A body in camel case, without an empty configuration: protobuf's JSON reads a name in snake case, too, and the
    SDK writes some so."""
    if isinstance(value, list):
        return [spelled(part) for part in value]
    if not isinstance(value, dict):
        return value
    out = {}
    for name, part in value.items():
        name = re.sub(r"_(\w)", lambda match: match[1].upper(), name)
        out[name] = part if name in _AS_THEY_ARE else spelled(part)
    return {name: part for name, part in out.items() if name != "generationConfig" or part}


def request(body: Body, path: str) -> Body:
    body = spelled(body)
    _refuse_unknown(body, _FIELDS, "")
    config = body.get("generationConfig") or {}
    _refuse_unknown(config, _CONFIG, " at 'generation_config'")
    model = path.rpartition("/")[2].partition(":")[0]
    out: Body = {"model": model, "messages": _messages(body)}
    if any("googleSearch" in tool for tool in body.get("tools") or ()):
        out["web_search"] = 0
    functions = [one for tool in body.get("tools") or () for one in tool.get("functionDeclarations") or ()]
    if functions:
        out["tools"] = [_tool(function) for function in functions]
    mode = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
    if mode.get("mode") == "ANY":
        names = mode.get("allowedFunctionNames")
        out["tool_choice"] = {"type": "function", "function": {"name": names[0]}} if names else "required"
    if (schema := config.get("responseJsonSchema")) is not None:
        if config.get("responseMimeType") != "application/json":
            raise ValueError("responseJsonSchema needs the response mime type application/json")
        if "web_search" in out and ("2.0" in model or "2.5" in model):
            raise ValueError("Tool use with a response mime type: 'application/json' is unsupported")
        if functions and ("2.0" in model or "2.5" in model):
            raise ValueError("Function calling with a response mime type: 'application/json' is unsupported")
        _refuse_keywords(schema)
        declared = {"name": "answer", "schema": as_read(schema), "strict": True}
        out["response_format"] = {"type": "json_schema", "json_schema": declared}
    if config.get("responseLogprobs"):
        out["logprobs"] = True
    if "maxOutputTokens" in config:
        out["max_tokens"] = config["maxOutputTokens"]
    for name, ours in (("temperature", "temperature"), ("topP", "top_p"), ("stopSequences", "stop")):
        if name in config:
            out[ours] = config[name]
    return out


def _refuse_unknown(body: Body, known: frozenset[str], place: str) -> None:
    for name in body:
        if name not in known:
            raise ValueError(f'Invalid JSON payload received. Unknown name "{name}"{place}: Cannot find field.')


def _refuse_keywords(schema: Any) -> None:
    if isinstance(schema, list):
        for part in schema:
            _refuse_keywords(part)
    if not isinstance(schema, dict):
        return
    for name, value in schema.items():
        if name not in _KEYWORDS:
            raise ValueError(f"generation_config.response_json_schema: keyword '{name}' is not supported")
        inner = list(value.values()) if name in ("properties", "$defs") else value
        if name != "enum":
            _refuse_keywords(inner)


def _tool(function: Body) -> Body:
    parameters = as_read(function.get("parametersJsonSchema") or {"type": "object", "properties": {}})
    out = {"name": function["name"], "parameters": parameters, "description": function.get("description", "")}
    return {"type": "function", "function": out}


def _messages(body: Body) -> list[Body]:
    out: list[Body] = []
    if system := body.get("systemInstruction"):
        out.append({"role": "system", "content": _texts(system["parts"])})
    for turn in body["contents"]:
        parts = turn["parts"]
        if not parts or turn["role"] not in ("user", "model"):
            raise ValueError("contents: a turn needs parts, and the role user or model")
        for part in parts:
            if (result := part.get("functionResponse")) is not None:
                content = json.dumps(result["response"])
                out.append({"role": "tool", "tool_call_id": result.get("id") or result["name"], "content": content})
        calls = [part["functionCall"] for part in parts if "functionCall" in part]
        rest = [part for part in parts if "functionResponse" not in part and "functionCall" not in part]
        if rest or calls:
            message: Body = {"role": {"model": "assistant"}.get(turn["role"], "user"), "content": _texts(rest)}
            if calls:
                message["tool_calls"] = [_call(call) for call in calls]
            out.append(message)
    return out


def _texts(parts: list[Body]) -> str:
    return "".join(part.get("text", "") for part in parts)


def _call(call: Body) -> Body:
    function = {"name": call["name"], "arguments": json.dumps(call["args"])}
    return {"id": call.get("id") or call["name"], "type": "function", "function": function}


def answer(completion: Body) -> Body:
    usage = completion["usage"]
    thought = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens", 0)
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    counts = {
        "promptTokenCount": usage["prompt_tokens"], "candidatesTokenCount": usage["completion_tokens"] - thought,
        "totalTokenCount": usage["prompt_tokens"] + usage["completion_tokens"],
    }  # fmt: skip
    if thought:
        counts["thoughtsTokenCount"] = thought
    if cached:
        counts["cachedContentTokenCount"] = cached
    out = {"modelVersion": completion["model"], "responseId": completion["id"], "usageMetadata": counts}
    if not completion["choices"]:
        return out
    message, reason = completion["choices"][0]["message"], completion["choices"][0]["finish_reason"]
    parts: list[Body] = []
    if message.get("thinking"):
        parts.append({"text": message["thinking"], "thought": True})
    if message.get("content"):
        parts.append({"text": message["content"]})
    for call in message.get("tool_calls") or ():
        parts.append({"functionCall": {"id": call["id"], "name": call["function"]["name"],
                                       "args": _object(call["function"]["arguments"])}})  # fmt: skip
    finish = {"length": "MAX_TOKENS"}.get(reason, "STOP")
    if message.get("refusal"):
        return {**out, "candidates": [{"finishReason": "SAFETY", "index": 0}]}
    candidate: Body = {"content": {"role": "model", "parts": parts}, "finishReason": finish, "index": 0}
    if (search := message.get("search")) is not None:
        candidate["groundingMetadata"] = {
            "webSearchQueries": search["queries"],
            "groundingChunks": [{"web": {"uri": one["url"], "title": one["title"]}} for one in search["sources"]],
            "groundingSupports": [{"segment": {"startIndex": 0, "endIndex": 1, "text": one["text"]},
                                   "groundingChunkIndices": [number]}
                                  for number, one in enumerate(search["sources"])],
        }  # fmt: skip
    if (found := completion["choices"][0].get("logprobs")) is not None:
        chosen = [{"token": one["token"], "logProbability": one["logprob"]} for one in found["content"]]
        candidate["logprobsResult"] = {"chosenCandidates": chosen}
    return {**out, "candidates": [candidate]}


def _object(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return {}


def error(status: int, message: str, code: str | None) -> Body:
    return {"error": {"code": status, "message": message, "status": _STATUS.get(status, "INTERNAL")}}
