"""Anthropic's Messages API. No I/O. The forms are those of the SDK in the lock (`anthropic`)."""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatResult

from stages.limits.budget import CAPS, cap_in
from stages.models.finish import PAUSED
from stages.models.wires.facts import facts_of
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
from stages.models.wires.protocols.search import (
    CITATIONS,
    MOST_CALLS,
    citation,
    is_search,
    most_searches,
    search_metadata,
)
from stages.models.wires.protocols.wire import Request, SchemaMode

VERSION = "2026-10-21"  # anthropic._constants.ANTHROPIC_API_VERSION
DEFAULT_CAP = 4_096  # of a model whose own cap is not known: the API needs one
_THOUGHTS = frozenset(("thinking", "redacted_thinking"))
_EFFORT_TOKENS = {"minimal": 1_024, "low": 1_024, "medium": 4_096, "high": 16_384, "xhigh": 32_768, "max": 32_768}
_SEARCH = "web_search_20250305"  # later ones filter by code that the provider runs, which newer models alone have
_SERVER_BLOCKS = frozenset(("server_tool_use", "web_search_tool_result"))
_OF_OTHERS = frozenset(("reasoning", "function_call", "web_search_call"))  # parts of answers of other providers
_LEAST_BUDGET = 1_024  # anthropic/types/thinking_config_enabled_param.py
# Names of the canonical request that have another form here.
_REWRITTEN = frozenset((
    "messages", "stream", "tools", "tool_choice", "parallel_tool_calls", "response_format", "stop", "reasoning_effort",
    "effort", "thinking_budget", "verbosity", MOST_CALLS, CITATIONS, *CAPS,
))  # fmt: skip


class AnthropicMessages:
    """`POST /v1/messages`."""

    def path(self, model: str) -> str:
        return "v1/messages"

    def headers(self, key: str) -> dict[str, str]:
        return {"anthropic-version": VERSION, **({"Authorization": f"Bearer {key}"} if key else {})}

    def schema_modes(self, request: Request) -> tuple[SchemaMode, ...]:
        if "json_schema" not in request["response_format"]:
            return ("words",)
        if request.get(CITATIONS):  # they stand beside pieces of text, which neither a schema's nor a tool's answer has
            return ("words",)
        known = facts_of("anthropic", request["model"]).schemas
        first: tuple[SchemaMode, ...] = () if known is False else ("format",)
        # While a model thinks, a forced tool is refused.
        thinks = (thinking_of(request) or {}).get("type") not in (None, "disabled")
        return (*first, "words") if thinks and not request.get("tools") else (*first, "tool", "words")

    def body(self, request: Request) -> dict[str, Any]:
        system, messages = conversation(request["messages"])
        body: dict[str, Any] = {
            "model": request["model"], "max_tokens": cap_of(request), "messages": messages,
            **{name: value for name, value in request.items() if name not in _REWRITTEN},
        }  # fmt: skip
        if system:
            body["system"] = system
        if request.get("stop"):
            stop = request["stop"]
            body["stop_sequences"] = [stop] if isinstance(stop, str) else list(stop)
        if thinking := thinking_of(request):
            body["thinking"] = thinking
        if output := _output_config(request):
            body["output_config"] = {**request.get("output_config", {}), **output}
        if tools := [_tool(tool, request) for tool in request.get("tools") or _undeclared(request["messages"])]:
            body["tools"] = tools
        if choice := _choice(request):
            body["tool_choice"] = choice
        return body

    def failure(self, answer: dict[str, Any]) -> tuple[int, str] | None:
        return failure_in(answer, "content")

    def result(self, answer: dict[str, Any], headers: Mapping[str, str], model: str) -> ChatResult:
        return result_of(answer, headers.get("request-id"), model)

    def rest(self, body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any] | None:
        if answer.get("stop_reason") != PAUSED:
            return None
        return {**body, "messages": [*body["messages"], {"role": "assistant", "content": answer["content"]}]}

    def joined(self, first: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
        usage = _sum_of(first.get("usage") or {}, rest.get("usage") or {})
        return {**rest, "content": [*first["content"], *rest["content"]], "usage": usage}


# The request ----------------------------------------------------------------------------------------------------------


def cap_of(request: Request) -> int:
    """Return the most tokens of the answer, which the API needs: as the request sets it, else the model's own."""
    set_by_user = cap_in(request)
    return set_by_user if set_by_user is not None else facts_of("anthropic", request["model"]).cap or DEFAULT_CAP


def thinking_of(request: Request) -> dict[str, Any] | None:
    """Return the form of thinking: as it is set, else by the effort, as far as the model needs to be told so."""
    if "thinking" in request:
        return dict(request["thinking"]) if request["thinking"] else None
    effort, tokens = request.get("reasoning_effort", request.get("effort")), request.get("thinking_budget")
    kind = facts_of("anthropic", request["model"]).thinking
    if tokens is None and (effort in (None, "none") or kind not in ("adaptive", "budget")):
        return None
    if tokens is None and kind == "adaptive":
        return {"type": "adaptive"}
    tokens = min(_EFFORT_TOKENS.get(str(effort), _LEAST_BUDGET) if tokens is None else tokens, cap_of(request) // 2)
    return {"type": "enabled", "budget_tokens": tokens} if tokens >= _LEAST_BUDGET else None


def _output_config(request: Request) -> dict[str, Any]:
    """Return the effort and the schema."""
    effort = request.get("reasoning_effort", request.get("effort"))
    config: dict[str, Any] = {}
    if effort not in (None, "none") and facts_of("anthropic", request["model"]).thinking != "budget":
        config["effort"] = "low" if effort == "minimal" else effort
    declared = (request.get("response_format") or {}).get("json_schema")
    if declared is not None:
        config["format"] = {"type": "json_schema", "schema": anthropic_schema(declared["schema"])}
    return config


def _tool(tool: Mapping[str, Any], request: Request) -> dict[str, Any]:
    """Return a tool in the API's form; one that the provider runs has it already, but for the canonical search."""
    if is_search(tool):
        return {"type": _SEARCH, "name": "web_search", "max_uses": most_searches(request)}
    function = tool.get("function")
    if function is None:
        return dict(tool)
    strict = function.get("strict")
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    out = {"name": function["name"], "input_schema": anthropic_schema(schema) if strict else schema}
    if "description" in function:
        out["description"] = function["description"]
    if strict is not None:
        out["strict"] = strict
    if "cache_control" in tool:
        out["cache_control"] = tool["cache_control"]
    return out


def _undeclared(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    searched = any(
        isinstance(part, Mapping) and part.get("type") in _SERVER_BLOCKS
        for message in messages if isinstance(message["content"], list) for part in message["content"]
    )  # fmt: skip
    return [*undeclared(messages), *([{"type": "web_search"}] if searched else [])]


def undeclared(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the tools that a conversation has called, for a request that declares none: a call without a tool is
    refused. So it is with answers that were calls of a tool, before there was a mode for schemas."""
    names = {call["function"]["name"]: None for message in messages for call in message.get("tool_calls") or ()}
    anything = {"type": "object", "properties": {}}
    return [{"type": "function", "function": {"name": name, "parameters": anything}} for name in names]


def _choice(request: Request) -> dict[str, Any] | None:
    choice, parallel = request.get("tool_choice"), request.get("parallel_tool_calls")
    out: dict[str, Any] | None
    if isinstance(choice, Mapping):
        named = choice.get("function")
        out = {"type": "tool", "name": named["name"]} if named else dict(choice)
    elif choice is None:
        out = {"type": "auto"} if parallel is False and request.get("tools") else None
    else:
        out = {"type": {"required": "any"}.get(choice, choice)}
    if out is not None and parallel is False and out["type"] != "none":
        out["disable_parallel_tool_use"] = True
    return out


def conversation(messages: list[dict[str, Any]]) -> tuple[str | list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the system text, and the turns: results of tools are a turn of the user's, those of one turn together."""
    system: list[Any] = []
    turns: list[dict[str, Any]] = []
    for message in messages:
        role, content = message["role"], message["content"]
        if role in ("system", "developer"):
            system.append(content)
        elif role == "tool":
            result = {"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": _content(content)}
            if turns and turns[-1]["role"] == "user" and _is_results(turns[-1]["content"]):
                turns[-1]["content"].append(result)
            else:
                turns.append({"role": "user", "content": [result]})
        elif role == "assistant":
            turns.append({"role": "assistant", "content": _answer_content(message)})
        else:
            turns.append({"role": "user", "content": _content(content)})
    if len(system) == 1 and isinstance(system[0], str):
        return system[0], turns
    return [block for content in system for block in _blocks(content)], turns


def _is_results(content: Any) -> bool:
    return isinstance(content, list) and all(block.get("type") == "tool_result" for block in content)


def _content(content: Any) -> str | list[dict[str, Any]]:
    return content if isinstance(content, str) else list(_blocks(content))


def _answer_content(message: Mapping[str, Any]) -> str | list[dict[str, Any]]:
    """Return the content of a model's earlier answer, its calls in their places, as far as they are still there."""
    calls = {call["id"]: use_of(call) for call in message.get("tool_calls") or ()}
    content = message["content"]
    if not calls and isinstance(content, str):
        return content
    blocks: list[dict[str, Any]] = []
    for block in _blocks(content):
        if block.get("type") != "tool_use":
            blocks.append(block)
        elif block.get("id") in calls:
            blocks.append(calls.pop(block["id"]))
    return [*blocks, *calls.values()]


def use_of(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    try:
        arguments = orjson.loads(function["arguments"] or "{}")
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):  # the model wrote no object; it is shown what it wrote
        arguments = {"invalid": function["arguments"]}
    return {"type": "tool_use", "id": call["id"], "name": function["name"], "input": arguments}


def _blocks(content: Any) -> Iterator[dict[str, Any]]:
    for part in parts_of(content):
        if isinstance(part, dict) and part.get("type") in _OF_OTHERS:
            continue
        block = _block(part) if isinstance(part, Part) else {k: v for k, v in part.items() if k != "index"}
        if isinstance(part, Part) and part.mark:
            block["cache_control"] = part.mark
        if block.get("type") != "text" or block["text"]:  # an empty text is refused
            yield block


def _block(part: Part) -> dict[str, Any]:
    if part.kind == "text":
        return {"type": "text", "text": part.text}
    source = {"type": "base64", "media_type": part.mime, "data": part.data} if part.data else {
        "type": "url", "url": part.url,
    }  # fmt: skip
    if part.kind == "image":
        return {"type": "image", "source": source}
    document: dict[str, Any] = {"type": "document", "source": source}
    return {**document, "title": part.name} if part.name else document


# The answer -----------------------------------------------------------------------------------------------------------


def result_of(answer: dict[str, Any], request_id: str | None, model: str) -> ChatResult:
    """Convert an answer to LangChain's form. Raises NoAnswer for one without content."""
    content, stop = answer.get("content"), answer.get("stop_reason")
    found = usage_of(answer.get("usage"))
    if not isinstance(content, list):
        raise no_completion_in(answer, "content", billed=found is None or found["total_tokens"] > 0)
    calls, texts, sources = ToolCalls(), [], []
    for block in content:
        if block["type"] == "tool_use":
            calls.add(block.get("name"), block.get("input"), block.get("id"))
        elif block["type"] == "text":
            texts.append(block["text"])
            sources += [citation(one["url"], one.get("title"), one.get("cited_text"))
                        for one in block.get("citations") or () if one.get("url")]  # fmt: skip
    if not (calls.valid or calls.invalid):  # results of searches are given back with those of tools, and are large
        content = [block for block in content if block["type"] not in _SERVER_BLOCKS]
    reported = answer.get("usage") or {}
    searches = counted(reported.get("server_tool_use"), "web_search_requests") or 0
    metadata = {
        "finish_reason": stop,
        "model_name": answer.get("model", model),
        "request_id": request_id or answer.get("id"),
        **({"service_tier": reported["service_tier"]} if reported.get("service_tier") else {}),
        **search_metadata(searches, sources),
    }
    if stop == "refusal" and (details := answer.get("stop_details")):
        metadata["refusal"] = details.get("category") or details.get("explanation")
    return result_of_parts(texts, content, calls, metadata, found)


def _sum_of(first: Mapping[str, Any], rest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the usage of two turns together: numbers are added, at any depth."""
    total = {**first, **rest}
    for name, value in rest.items():
        before = first.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            total[name] = _sum_of(before, value)
        elif isinstance(value, int) and isinstance(before, int):
            total[name] = before + value
        elif value is None:
            total[name] = before
    return total


def usage_of(raw: Any) -> UsageMetadata | None:
    """Return tokens as LangChain counts them: what the cache gave and took is in the input, as is not so here."""
    fresh, wrote = counted(raw, "input_tokens"), counted(raw, "output_tokens")
    read, kept = counted(raw, "cache_read_input_tokens"), counted(raw, "cache_creation_input_tokens")
    by_time = raw.get("cache_creation") if isinstance(raw, Mapping) else None
    hour = counted(by_time, "ephemeral_1h_input_tokens") or 0
    total = None if fresh is None else fresh + (read or 0) + (kept or 0)
    thought = counted(raw.get("output_tokens_details"), "thinking_tokens") if isinstance(raw, Mapping) else None
    return usage(total, wrote, cached=read, cache_written=((kept or 0) - hour, hour), reasoning=thought)
