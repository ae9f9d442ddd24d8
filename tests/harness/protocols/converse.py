"""Bedrock's Converse, as strict as botocore's model of it, and signed."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

from tests.harness.protocols.anthropic import as_read

Body = dict[str, Any]
_FIELDS = frozenset((
    "messages", "system", "inferenceConfig", "toolConfig", "guardrailConfig", "additionalModelRequestFields",
    "requestMetadata", "performanceConfig", "serviceTier", "outputConfig", "additionalModelResponseFieldPaths",
))  # fmt: skip
_EXCEPTIONS = {
    400: "ValidationException", 403: "AccessDeniedException", 404: "ResourceNotFoundException",
    429: "ThrottlingException", 500: "InternalServerException", 503: "ServiceUnavailableException",
}  # fmt: skip


def request(body: Body, path: str) -> Body:
    for name in body:
        if name not in _FIELDS:
            raise ValueError(f"The request has an unknown field: {name}")
    out: Body = {"model": unquote(path.split("/")[2]), "messages": list(_messages(body))}
    config, tools = body.get("inferenceConfig") or {}, body.get("toolConfig") or {}
    if tools:
        out["tools"] = [_tool(tool["toolSpec"]) for tool in tools["tools"] if "toolSpec" in tool]
        choice = tools.get("toolChoice") or {}
        if "tool" in choice:
            out["tool_choice"] = {"type": "function", "function": {"name": choice["tool"]["name"]}}
        elif "any" in choice:
            out["tool_choice"] = "required"
    if (form := (body.get("outputConfig") or {}).get("textFormat")) is not None:
        schema = json.loads(form["structure"]["jsonSchema"]["schema"])
        declared = {"name": "answer", "schema": as_read(schema), "strict": True}
        out["response_format"] = {"type": "json_schema", "json_schema": declared}
    for theirs, ours in (("maxTokens", "max_tokens"), ("temperature", "temperature"), ("topP", "top_p")):
        if theirs in config:
            out[ours] = config[theirs]
    return out


def _tool(spec: Body) -> Body:
    function = {"name": spec["name"], "parameters": as_read(spec["inputSchema"]["json"])}
    return {"type": "function", "function": {**function, "description": spec.get("description", "")}}


def _messages(body: Body) -> Any:
    if system := body.get("system"):
        yield {"role": "system", "content": _texts(system)}
    role = "assistant"
    for message in body["messages"]:
        if message["role"] == role or not message["content"]:
            raise ValueError("messages: roles must alternate, and no turn may be empty")
        role = message["role"]
        blocks = message["content"]
        if any("toolUse" in block or "toolResult" in block for block in blocks) and "toolConfig" not in body:
            raise ValueError("The toolConfig field must be defined when using toolUse and toolResult content blocks.")
        for block in blocks:
            if (result := block.get("toolResult")) is not None:
                yield {"role": "tool", "tool_call_id": result["toolUseId"], "content": _texts(result["content"])}
        uses = [block["toolUse"] for block in blocks if "toolUse" in block]
        text = _texts(blocks)
        if text or uses:
            turn: Body = {"role": role, "content": text}
            if uses:
                turn["tool_calls"] = [_call(use) for use in uses]
            yield turn


def _texts(blocks: list[Body]) -> str:
    return "".join(block["text"] for block in blocks if "text" in block)


def _call(use: Body) -> Body:
    function = {"name": use["name"], "arguments": json.dumps(use["input"])}
    return {"id": use["toolUseId"], "type": "function", "function": function}


def answer(completion: Body) -> Body:
    usage = completion["usage"]
    choice: Body = completion["choices"][0] if completion["choices"] else {"message": {}, "finish_reason": "stop"}
    message = choice["message"]
    content: list[Body] = []
    if message.get("thinking"):
        content.append({"reasoningContent": {"reasoningText": {"text": message["thinking"], "signature": "c2ln"}}})
    if message.get("content"):
        content.append({"text": message["content"]})
    for call in message.get("tool_calls") or ():
        arguments = call["function"]["arguments"]
        try:
            found = json.loads(arguments)
        except ValueError:
            found = {}
        content.append({"toolUse": {"toolUseId": call["id"], "name": call["function"]["name"], "input": found}})
    uses = any("toolUse" in block for block in content)
    stop = "max_tokens" if choice["finish_reason"] == "length" else "tool_use" if uses else "end_turn"
    stop = "content_filtered" if message.get("refusal") else stop
    cached, written = ((usage.get("prompt_tokens_details") or {}).get(name, 0)
                       for name in ("cached_tokens", "cache_write_tokens"))  # fmt: skip
    return {
        "output": {"message": {"role": "assistant", "content": content}}, "stopReason": stop,
        "metrics": {"latencyMs": 5},
        "usage": {
            "inputTokens": usage["prompt_tokens"] - cached - written, "outputTokens": usage["completion_tokens"],
            "totalTokens": usage["prompt_tokens"] + usage["completion_tokens"],
            "cacheReadInputTokens": cached, "cacheWriteInputTokens": written,
        },
    }  # fmt: skip


def error(status: int, message: str, code: str | None) -> Body:
    return {"message": message, "__type": _EXCEPTIONS.get(status, "ValidationException")}
