"""Gemini's generateContent, of AI Studio and of Vertex AI. No I/O. The forms are those of the SDK in the lock
(`google-genai`)."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatResult

from stages.limits.budget import CAPS, cap_in
from stages.models.logprobs import LOGPROBS, tokens_with_logprobs
from stages.models.wires.facts import facts_of
from stages.models.wires.protocols.answer import (
    ToolCalls,
    counted,
    failure_in,
    no_completion_in,
    result_of_parts,
    usage,
)
from stages.models.wires.protocols.grounding import searched
from stages.models.wires.protocols.parts import Part, parts_of
from stages.models.wires.protocols.schemas import gemini_schema
from stages.models.wires.protocols.search import CITATIONS, MOST_CALLS, is_search, searches_web
from stages.models.wires.protocols.wire import Request, SchemaMode, WholeAnswers

# Tokens for efforts, where a model takes a budget instead: about what the OpenAI-compatible endpoint of Gemini gives.
_EFFORT_TOKENS = {"none": 0, "minimal": 1_024, "low": 1_024, "medium": 8_192, "high": 24_576, "xhigh": 24_576,
                  "max": 24_576}  # fmt: skip
_LEVELS = {"none": "MINIMAL", "max": "XHIGH"}  # google/genai/types.py: ThinkingLevel
_GENERATION = (
    "temperature", "top_p", "top_k", "candidate_count", "presence_penalty", "frequency_penalty", "seed",
    "response_modalities", "media_resolution", "speech_config", "image_config", "audio_timestamp",
)  # fmt: skip
_TOP = ("cached_content", "labels", "service_tier", "store")
# Names of the canonical request, and of LangChain's class, that have another form here.
_REWRITTEN = frozenset((
    "model", "messages", "stream", "tools", "tool_choice", "parallel_tool_calls", "response_format", "stop",
    "reasoning_effort", "verbosity", "thinking_budget", "thinking_level", "include_thoughts", "thinking_config", "n",
    "logprobs", "top_logprobs", "safety_settings", "user", "metadata", MOST_CALLS, CITATIONS,
    *_GENERATION, *_TOP, *CAPS,
))  # fmt: skip
_SYNTHETIC = "call_without_id_"


@dataclass(frozen=True)
class GeminiGenerate(WholeAnswers):
    """`POST /v1/models/<model>:generateContent`; the version is that of the SDK (GOOGLE_AI_API_DEFAULT_VERSION)."""

    version: str = "v1"

    def path(self, model: str) -> str:
        return f"{self.version}/{model if '/' in model else f'models/{model}'}:generateContent"

    def headers(self, key: str) -> dict[str, str]:
        return {"x-goog-api-key": key} if key else {}

    def schema_modes(self, request: Request) -> tuple[SchemaMode, ...]:
        if "json_schema" not in request["response_format"]:
            return "format", "words"
        facts = facts_of("google_genai", request["model"])
        if searches_web(request):  # beside which no function may stand, and a schema only where functions may have one
            return ("words",) if facts.functions_with_schema is False else ("format", "words")
        beside_functions = request.get("tools") and facts.functions_with_schema is False
        if facts.schemas is False or beside_functions:
            return "tool", "words"
        return "format", "tool", "words"

    def body(self, request: Request) -> dict[str, Any]:
        system, contents = conversation(request["messages"])
        body: dict[str, Any] = {
            "contents": contents, **{name: value for name, value in request.items() if name not in _REWRITTEN},
        }  # fmt: skip
        if system:
            body["systemInstruction"] = {"parts": system, "role": "user"}
        body |= {_camel(name): request[name] for name in _TOP if request.get(name) is not None}
        if safety := request.get("safety_settings"):
            body["safetySettings"] = _safety(safety)
        if config := _generation(request):
            body["generationConfig"] = {**request.get("generationConfig", {}), **config}
        if tools := _tools(request.get("tools") or ()):
            body["tools"] = tools
        if (mode := _mode(request.get("tool_choice"))) is not None:
            body["toolConfig"] = {"functionCallingConfig": mode}
        return body

    def failure(self, answer: dict[str, Any]) -> tuple[int, str] | None:
        return failure_in(answer, "candidates")

    def result(self, answer: dict[str, Any], headers: Mapping[str, str], model: str) -> ChatResult:
        return result_of(answer, model, headers.get("x-gemini-service-tier", ""))


@dataclass(frozen=True)
class VertexGenerate(GeminiGenerate):
    """`POST …/publishers/google/models/<model>:generateContent`, in the project and location of the path `place`. Who
    asks is in the headers of its access."""

    place: str = ""

    def path(self, model: str) -> str:
        return f"{resource_of(model, self.place)}:generateContent"

    def headers(self, key: str) -> dict[str, str]:
        return {}

    def body(self, request: Request) -> dict[str, Any]:
        body = super().body(request)
        cached = body.get("cachedContent")
        if cached is not None and not cached.startswith("projects/"):
            body["cachedContent"] = f"{self.place}{cached if '/' in cached else f'cachedContents/{cached}'}"
        return body


def resource_of(model: str, place: str) -> str:
    """Return the name of a model as a resource of Vertex AI: `model`, `publisher/model`, or what is one already."""
    if model.startswith("projects/"):
        return model
    if not model.startswith(("publishers/", "models/")):
        publisher, _, name = model.rpartition("/")
        model = f"publishers/{publisher or 'google'}/models/{name}"
    return f"{place}{model}"


# The request ----------------------------------------------------------------------------------------------------------


def _camel(name: str) -> str:
    return re.sub(r"_(\w)", lambda match: match[1].upper(), name)


def _generation(request: Request) -> dict[str, Any]:
    config = {_camel(name): request[name] for name in _GENERATION if request.get(name) is not None}
    if "n" in request:
        config["candidateCount"] = request["n"]
    if (cap := cap_in(request)) is not None:
        config["maxOutputTokens"] = cap
    if stop := request.get("stop"):
        config["stopSequences"] = [stop] if isinstance(stop, str) else list(stop)
    if request.get("logprobs"):
        config["responseLogprobs"] = True
    if "top_logprobs" in request:
        config["logprobs"] = request["top_logprobs"]
    if thinking := _thinking(request):
        config["thinkingConfig"] = thinking
    if form := request.get("response_format"):
        config["responseMimeType"] = "application/json"
        if declared := form.get("json_schema"):
            config["responseJsonSchema"] = gemini_schema(declared["schema"])
    return config


def _thinking(request: Request) -> dict[str, Any]:
    """Return how to think: as it is set, else by the effort, as the model is told of it."""
    config = {_camel(name): value for name, value in (request.get("thinking_config") or {}).items()}
    for name in ("include_thoughts", "thinking_budget"):
        if request.get(name) is not None:
            config[_camel(name)] = request[name]
    if request.get("thinking_level") is not None:
        config["thinkingLevel"] = str(request["thinking_level"]).upper()
    effort = request.get("reasoning_effort")
    if effort is None or "thinkingBudget" in config or "thinkingLevel" in config:
        return config
    if facts_of("google_genai", request["model"]).thinking == "budget":
        config["thinkingBudget"] = _EFFORT_TOKENS.get(effort, -1)  # -1: as the model likes
    else:
        config["thinkingLevel"] = _LEVELS.get(effort, str(effort).upper())
    return config


def _safety(settings: Any) -> list[dict[str, Any]]:
    """Return safety settings, which LangChain writes as categories with their thresholds."""
    if not isinstance(settings, Mapping):
        return list(settings)
    return [{"category": _word(category), "threshold": _word(level)} for category, level in settings.items()]


def _word(value: Any) -> str:
    return str(getattr(value, "value", value))


def _tools(tools: Any) -> list[dict[str, Any]]:
    """Return the functions as one tool, and tools that the provider runs behind it."""
    functions = [_function(tool["function"]) for tool in tools if "function" in tool]
    own = [{"googleSearch": {}} if is_search(tool) else {name: part for name, part in tool.items() if name != "type"}
           for tool in tools if "function" not in tool]  # fmt: skip
    return [*([{"functionDeclarations": functions}] if functions else []), *own]


def _function(function: Mapping[str, Any]) -> dict[str, Any]:
    out = {"name": function["name"]}
    if function.get("description"):
        out["description"] = function["description"]
    if parameters := function.get("parameters"):
        out["parametersJsonSchema"] = gemini_schema(parameters)
    return out


def _mode(choice: Any) -> dict[str, Any] | None:
    if choice is None:
        return None
    if isinstance(choice, Mapping):
        named = choice.get("function")
        return {"mode": "ANY", "allowedFunctionNames": [named["name"]]} if named else dict(choice)
    return {"mode": {"required": "ANY"}.get(choice, str(choice).upper())}


def conversation(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the parts of the system text, and the turns; results of several tools are one turn."""
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for message in messages:
        role, content = message["role"], message["content"]
        if role in ("system", "developer"):
            system += _parts(content)
        elif role == "tool":
            result = _response(message["tool_call_id"], names, content)
            if turns and "functionResponse" in turns[-1]["parts"][-1]:
                turns[-1]["parts"].append(result)
            else:
                turns.append({"role": "user", "parts": [result]})
        elif role == "assistant":
            calls = message.get("tool_calls") or ()
            names |= {call["id"]: call["function"]["name"] for call in calls}
            turns.append({"role": "model", "parts": _answer_parts(content, calls)})
        else:
            turns.append({"role": "user", "parts": list(_parts(content))})
    return system, turns


def _response(id: str, names: Mapping[str, str], content: Any) -> dict[str, Any]:
    """Return the result of a function: an object as it is, any other text as its output."""
    text = "".join(part.text for part in parts_of(content) if isinstance(part, Part))
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        found = None
    response = found if isinstance(found, dict) else {"output": text}
    return {"functionResponse": {**_id(id), "name": names.get(id, id), "response": response}}


def _id(id: Any) -> dict[str, Any]:
    return {} if not id or str(id).startswith(_SYNTHETIC) else {"id": id}


def _answer_parts(content: Any, calls: Any) -> list[dict[str, Any]]:
    """Return the parts of a model's earlier answer: its calls with their signatures, where it gave any."""
    marked = content if isinstance(content, list) else ()
    signatures = {part["id"]: part["signature"] for part in marked if isinstance(part, dict) and "signature" in part
                  and part.get("type") == "function_call"}  # fmt: skip
    parts = list(_parts(content))
    for call in calls:
        function = call["function"]
        try:
            arguments = orjson.loads(function["arguments"] or "{}")
        except orjson.JSONDecodeError:
            arguments = {"invalid": function["arguments"]}
        part: dict[str, Any] = {"functionCall": {**_id(call["id"]), "name": function["name"], "args": arguments}}
        if call["id"] in signatures:
            part["thoughtSignature"] = signatures[call["id"]]
        parts.append(part)
    return parts or [{"text": ""}]


_OWN = frozenset((
    "function_call", "thinking", "redacted_thinking", "tool_use", "reasoning", "web_search_call", "server_tool_use",
    "web_search_tool_result",
))  # fmt: skip


def _parts(content: Any) -> Iterator[dict[str, Any]]:
    for part in parts_of(content):
        if not isinstance(part, Part):
            if part.get("type") not in _OWN:
                yield {name: value for name, value in part.items() if name != "type"}
        elif part.kind == "text":
            yield {"text": part.text}
        elif part.data:
            yield {"inlineData": {"data": part.data, "mimeType": part.mime}}
        else:
            yield {"fileData": {"fileUri": part.url, "mimeType": part.mime}}


# The answer -----------------------------------------------------------------------------------------------------------


def result_of(answer: dict[str, Any], model: str, tier: str = "") -> ChatResult:
    """Convert an answer to LangChain's form; a blocked prompt is an answer that was withheld. `tier`: by the headers,
    at which it was served, if the usage does not say so. Raises NoAnswer for one without a candidate."""
    candidates, feedback = answer.get("candidates"), answer.get("promptFeedback") or {}
    found = usage_of(answer.get("usageMetadata"))
    blocked = feedback.get("blockReason")
    if not candidates and not blocked:
        raise no_completion_in(answer, "candidates", billed=found is None or found["total_tokens"] > 0)
    candidate = candidates[0] if candidates else {}
    parts = (candidate.get("content") or {}).get("parts") or []
    calls, texts = ToolCalls(), []
    content: list[dict[str, Any]] = []
    for number, part in enumerate(parts):
        if (call := part.get("functionCall")) is not None:
            id = call.get("id") or f"{_SYNTHETIC}{number}"
            calls.add(call.get("name"), call.get("args") or {}, id)
            if signature := part.get("thoughtSignature"):
                content.append({"type": "function_call", "id": id, "signature": signature})
        elif part.get("thought"):
            content.append({"type": "thinking", "thinking": part.get("text", "")})
        elif "text" in part:
            texts.append(part["text"])
            content.append({"type": "text", "text": part["text"]})
    usage_metadata = answer.get("usageMetadata")
    by_usage = usage_metadata.get("serviceTier") if isinstance(usage_metadata, Mapping) else None
    served = str(by_usage or tier).lower()
    metadata = {
        "finish_reason": "content_filter" if blocked else candidate.get("finishReason"),
        "model_name": answer.get("modelVersion", model),
        "request_id": answer.get("responseId"),
        **({"service_tier": served} if served else {}),
        **searched(candidate.get("groundingMetadata"), str(answer.get("modelVersion", model))),
        **({"block_reason": blocked} if blocked else {}),
    }
    chosen = (candidate.get("logprobsResult") or {}).get("chosenCandidates")
    if tokens := tokens_with_logprobs(chosen, "token", "logProbability"):
        metadata[LOGPROBS] = tokens
    return result_of_parts(texts, content, calls, metadata, found)


def usage_of(raw: Any) -> UsageMetadata | None:
    """Return tokens as LangChain counts them: thoughts are in the output, as is not so here."""
    read, wrote = counted(raw, "promptTokenCount"), counted(raw, "candidatesTokenCount")
    thought, by_tools = counted(raw, "thoughtsTokenCount"), counted(raw, "toolUsePromptTokenCount")
    if read is None and wrote is None and thought is None:
        return None
    return usage(
        (read or 0) + (by_tools or 0),
        (wrote or 0) + (thought or 0),
        cached=counted(raw, "cachedContentTokenCount"),
        reasoning=thought,
    )
