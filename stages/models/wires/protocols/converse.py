"""Bedrock's Converse. No I/O. The forms are those of the SDK in the lock (botocore's model of `bedrock-runtime`).

Requests are signed by a function that the caller has (`ProviderChatModel.sign`): nothing here knows AWS's credentials.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import orjson
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatResult

from stages.limits.budget import CAPS, cap_in
from stages.models.wires.facts import facts_of
from stages.models.wires.protocols import anthropic
from stages.models.wires.protocols.answer import (
    ToolCalls,
    counted,
    failure_in,
    no_completion_in,
    result_of_parts,
    usage,
)
from stages.models.wires.protocols.parts import Part, parts_of
from stages.models.wires.protocols.schemas import anthropic_schema
from stages.models.wires.protocols.wire import Request, SchemaMode, WholeAnswers

# Names of the canonical request, and of LangChain's class, that have another form here.
_REWRITTEN = frozenset((
    "model", "messages", "stream", "tools", "tool_choice", "parallel_tool_calls", "response_format", "stop",
    "reasoning_effort", "verbosity", "temperature", "top_p", "top_k", "thinking", "service_tier", "guardrails",
    "additional_model_request_fields", "additional_model_response_field_paths", "performance_config",
    "request_metadata", "user", "metadata", *CAPS,
))  # fmt: skip
_AS_THEY_ARE = {
    "guardrails": "guardrailConfig", "performance_config": "performanceConfig", "request_metadata": "requestMetadata",
    "additional_model_response_field_paths": "additionalModelResponseFieldPaths",
}  # fmt: skip
_OWN = frozenset((
    "tool_use", "function_call", "reasoning", "web_search_call", "server_tool_use", "web_search_tool_result",
))  # fmt: skip


class BedrockConverse(WholeAnswers):
    """`POST /model/<model>/converse`."""

    def path(self, model: str) -> str:
        return f"model/{quote(model, safe='-._~')}/converse"

    def headers(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"} if key else {}

    def schema_modes(self, request: Request) -> tuple[SchemaMode, ...]:
        if "json_schema" not in request["response_format"]:
            return ("words",)
        first: tuple[SchemaMode, ...] = () if _facts(request).schemas is False else ("format",)
        thinks = (_thinking(request) or {}).get("type") not in (None, "disabled")
        return (*first, "words") if thinks and not request.get("tools") else (*first, "tool", "words")

    def body(self, request: Request) -> dict[str, Any]:
        system, messages = conversation(request["messages"])
        body: dict[str, Any] = {
            "messages": messages, **{name: value for name, value in request.items() if name not in _REWRITTEN},
        }  # fmt: skip
        if system:
            body["system"] = system
        if config := _inference(request):
            body["inferenceConfig"] = config
        if output := _output(request):
            body["outputConfig"] = output
        if tools := [_tool(tool) for tool in request.get("tools") or anthropic.undeclared(request["messages"])]:
            body["toolConfig"] = {"tools": tools, **_choice(request.get("tool_choice"))}
        if extra := _additional(request):
            body["additionalModelRequestFields"] = extra
        if tier := request.get("service_tier"):
            body["serviceTier"] = {"type": tier} if isinstance(tier, str) else tier
        return body | {theirs: request[ours] for ours, theirs in _AS_THEY_ARE.items() if request.get(ours)}

    def failure(self, answer: dict[str, Any]) -> tuple[int, str] | None:
        return failure_in(answer, "output")

    def result(self, answer: dict[str, Any], headers: Mapping[str, str], model: str) -> ChatResult:
        return result_of(answer, headers.get("x-amzn-requestid"), model)


# The request ----------------------------------------------------------------------------------------------------------


def _facts(request: Request) -> Any:
    return facts_of("bedrock_converse", request["model"])


def _inference(request: Request) -> dict[str, Any]:
    stop = request.get("stop")
    found = {
        "maxTokens": cap_in(request),
        "temperature": request.get("temperature"),
        "topP": request.get("top_p"),
        "stopSequences": [stop] if isinstance(stop, str) else stop and list(stop),
    }
    return {name: value for name, value in found.items() if value is not None}


def _output(request: Request) -> dict[str, Any]:
    """Return the effort and the schema, which is a text here."""
    effort, config = request.get("reasoning_effort"), {}
    if effort not in (None, "none") and _facts(request).thinking != "budget":
        config["effort"] = effort
    declared = (request.get("response_format") or {}).get("json_schema")
    if declared is not None:
        text = orjson.dumps(anthropic_schema(declared["schema"])).decode()
        schema = {"name": declared["name"], "schema": text}
        config["textFormat"] = {"type": "json_schema", "structure": {"jsonSchema": schema}}
    return config


def _thinking(request: Request) -> dict[str, Any] | None:
    """Return how an Anthropic model is told to think; other models have fields of their own."""
    given = request.get("additional_model_request_fields") or {}
    if "thinking" in given or "thinking" in request:
        found: dict[str, Any] | None = given.get("thinking") or request.get("thinking")
        return found
    if _facts(request).thinking not in ("adaptive", "budget"):
        return None
    name = request["model"].rpartition("anthropic.")[2]
    return anthropic.thinking_of({**request, "model": name})


def _additional(request: Request) -> dict[str, Any]:
    fields = dict(request.get("additional_model_request_fields") or {})
    if request.get("top_k") is not None:
        fields.setdefault("top_k", request["top_k"])
    if (thinking := _thinking(request)) is not None:
        fields["thinking"] = thinking
    return fields


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool.get("function")
    if function is None:
        return dict(tool)
    schema, strict = function.get("parameters") or {"type": "object", "properties": {}}, function.get("strict")
    spec: dict[str, Any] = {
        "name": function["name"], "inputSchema": {"json": anthropic_schema(schema) if strict else schema},
    }  # fmt: skip
    if function.get("description"):
        spec["description"] = function["description"]
    if strict is not None:
        spec["strict"] = strict
    return {"toolSpec": spec}


def _choice(choice: Any) -> dict[str, Any]:
    if choice in (None, "none"):
        return {}
    if isinstance(choice, Mapping):
        named = choice.get("function")
        return {"toolChoice": {"tool": {"name": named["name"]}} if named else dict(choice)}
    return {"toolChoice": {{"required": "any"}.get(choice, choice): {}}}


def conversation(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the blocks of the system text, and the turns: turns of one role in a row are one."""
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    for message in messages:
        role, content = message["role"], message["content"]
        if role in ("system", "developer"):
            system += _blocks(content)
            continue
        blocks = list(_blocks(content))
        if role == "tool":
            blocks = [{"toolResult": {"toolUseId": message["tool_call_id"], "content": blocks or [{"text": ""}]}}]
        elif role == "assistant":
            blocks += [{"toolUse": _use(call)} for call in message.get("tool_calls") or ()]
        theirs = "assistant" if role == "assistant" else "user"
        if turns and turns[-1]["role"] == theirs:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": theirs, "content": blocks})
    return system, turns


def _use(call: Mapping[str, Any]) -> dict[str, Any]:
    use = anthropic.use_of(call)
    return {"toolUseId": use["id"], "name": use["name"], "input": use["input"]}


def _blocks(content: Any) -> Iterator[dict[str, Any]]:
    for number, part in enumerate(parts_of(content)):
        if not isinstance(part, Part):
            if (block := _foreign(part)) is not None:
                yield block
            continue
        if part.kind == "text" and not part.text.strip():
            continue  # a blank text is refused
        yield _block(part, number)
        if part.mark:
            ttl = {"ttl": part.mark["ttl"]} if "ttl" in part.mark else {}
            yield {"cachePoint": {"type": "default", **ttl}}


def _foreign(part: dict[str, Any]) -> dict[str, Any] | None:
    """Return a part that is in Converse's own form, or a thought; None for parts of another provider's answers."""
    kind = part.get("type")
    if kind == "thinking":
        text = {"text": part.get("thinking", ""), "signature": part.get("signature")}
        return {"reasoningContent": {"reasoningText": {name: value for name, value in text.items() if value}}}
    if kind == "redacted_thinking":
        return {"reasoningContent": {"redactedContent": part.get("data", "")}}
    return None if kind in _OWN else {name: value for name, value in part.items() if name != "type"}


def _block(part: Part, number: int) -> dict[str, Any]:
    if part.kind == "text":
        return {"text": part.text}
    ending = {"jpg": "jpeg", "plain": "txt"}.get(part.mime.partition("/")[2], part.mime.partition("/")[2])
    source = {"bytes": part.data} if part.data else {"s3Location": {"uri": part.url}}
    if part.kind == "image":
        return {"image": {"format": ending, "source": source}}
    name = re.sub(r"[^\w\s()\[\]-]+|\s{2,}", " ", part.name).strip() or f"document {number + 1}"
    return {"document": {"format": ending, "name": name, "source": source}}


# The answer -----------------------------------------------------------------------------------------------------------


def result_of(answer: dict[str, Any], request_id: str | None, model: str) -> ChatResult:
    """Convert an answer to LangChain's form. Raises NoAnswer for one without a message."""
    output, found = (answer.get("output") or {}).get("message"), usage_of(answer.get("usage"))
    if not isinstance(output, dict):
        raise no_completion_in(answer, "message", billed=found is None or found["total_tokens"] > 0)
    calls, texts = ToolCalls(), []
    content: list[dict[str, Any]] = []
    for block in output.get("content") or ():
        if (use := block.get("toolUse")) is not None:
            calls.add(use.get("name"), use.get("input") or {}, use.get("toolUseId"))
        elif (thought := block.get("reasoningContent")) is not None:
            content.append(_thought(thought))
        else:
            cited = block.get("citationsContent") or {}
            for part in [block] if "text" in block else cited.get("content") or ():
                texts.append(part["text"])
                content.append({"type": "text", "text": part["text"]})
    tier = (answer.get("serviceTier") or {}).get("type")
    metadata = {
        "finish_reason": answer.get("stopReason"),
        "model_name": model,
        "request_id": request_id,
        **({"service_tier": tier} if tier else {}),
    }
    return result_of_parts(texts, content, calls, metadata, found)


def _thought(block: Mapping[str, Any]) -> dict[str, Any]:
    text = block.get("reasoningText")
    if text is None:
        return {"type": "redacted_thinking", "data": block.get("redactedContent")}
    signature = {"signature": text["signature"]} if text.get("signature") else {}
    return {"type": "thinking", "thinking": text.get("text", ""), **signature}


def usage_of(raw: Any) -> UsageMetadata | None:
    """Return tokens as LangChain counts them: what the cache gave and took is in the input, as is not so here."""
    fresh, wrote = counted(raw, "inputTokens"), counted(raw, "outputTokens")
    read, kept = counted(raw, "cacheReadInputTokens"), counted(raw, "cacheWriteInputTokens")
    details = raw.get("cacheDetails") or () if isinstance(raw, Mapping) else ()
    hour = sum(counted(one, "inputTokens") or 0 for one in details if one.get("ttl") == "1h")
    total = None if fresh is None else fresh + (read or 0) + (kept or 0)
    return usage(total, wrote, cached=read, cache_written=((kept or 0) - hour, hour))
