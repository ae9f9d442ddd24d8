"""OpenAI's Responses API. No I/O. The forms are those of the SDK in the lock (`openai`).

It is taken where `params: {api: responses}` says so, and for models that answer by it alone, or call functions while
they reason by it alone (`stages.models.wires.facts`). All else goes by Chat Completions, which other servers know too.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatResult

from stages.limits.budget import CAPS, cap_in
from stages.models.wires.protocols.answer import ToolCalls, chat_result, counted, failure_in, no_completion_in, usage
from stages.models.wires.protocols.parts import Part, data_url, parts_of
from stages.models.wires.protocols.search import (
    CITATIONS,
    MOST_CALLS,
    citation,
    most_searches,
    search_metadata,
    searches_web,
)
from stages.models.wires.protocols.wire import Request, SchemaMode, WholeAnswers

# Names of the canonical request that have another form here.
_REWRITTEN = frozenset((
    "messages", "stream", "stream_options", "tools", "tool_choice", "response_format", "reasoning_effort", "verbosity",
    CITATIONS, *CAPS,
))  # fmt: skip
_BREAKPOINT = "prompt_cache_breakpoint"
_KEPT = frozenset(("reasoning", "web_search_call"))  # items that are given back with the results of functions
_THOUGHTS = "reasoning.encrypted_content"  # given back with the results of tools, as nothing is stored there


class OpenAIResponses(WholeAnswers):
    """`POST /responses`."""

    def path(self, model: str) -> str:
        return "responses"

    def headers(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"} if key else {}

    def schema_modes(self, request: Request) -> tuple[SchemaMode, ...]:
        return "format", "words"

    def body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": request["model"], "input": list(_items(request["messages"])), "store": False,
            **{name: value for name, value in request.items() if name not in _REWRITTEN},
        }  # fmt: skip
        if (cap := cap_in(request)) is not None:
            body["max_output_tokens"] = cap
        if (effort := request.get("reasoning_effort")) is not None:
            body["reasoning"] = {**request.get("reasoning", {}), "effort": effort}
        if text := _text(request):
            body["text"] = {**request.get("text", {}), **text}
        if tools := [_tool(tool) for tool in request.get("tools") or ()]:
            body["tools"] = tools
            body.setdefault("include", [_THOUGHTS])
        if searches_web(request):
            body.setdefault(MOST_CALLS, most_searches(request))
        if (choice := request.get("tool_choice")) is not None:
            named = choice.get("function") if isinstance(choice, Mapping) else None
            body["tool_choice"] = {"type": "function", "name": named["name"]} if named else choice
        return body

    def failure(self, answer: dict[str, Any]) -> tuple[int, str] | None:
        failed = answer.get("status") == "failed"
        return failure_in({**answer, "output": None} if failed else answer, "output")

    def result(self, answer: dict[str, Any], headers: Mapping[str, str], model: str) -> ChatResult:
        return result_of(answer, headers.get("x-request-id"), model)


# The request ----------------------------------------------------------------------------------------------------------


def _text(request: Request) -> dict[str, Any]:
    """Return the form of the answer, and how long-winded it is."""
    text: dict[str, Any] = {}
    if form := request.get("response_format"):
        declared = form.get("json_schema")
        text["format"] = {"type": form["type"], **declared} if declared else dict(form)
    if request.get("verbosity") is not None:
        text["verbosity"] = request["verbosity"]
    return text


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a function in the API's form; without `strict`, which is the default here alone, it is not."""
    function = tool.get("function")
    if function is None:
        return dict(tool)
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    return {"type": "function", "strict": False, **function, "parameters": parameters}


def _items(messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the items of a conversation: thoughts, calls and results are items of their own."""
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "tool":
            output = content if isinstance(content, str) else list(_parts(content))
            yield {"type": "function_call_output", "call_id": message["tool_call_id"], "output": output}
        elif role == "assistant":
            parts = content if isinstance(content, list) else []
            yield from (part for part in parts if isinstance(part, dict) and part.get("type") in _KEPT)
            text = "".join(part.text for part in parts_of(content) if isinstance(part, Part))
            if text:
                yield {"role": "assistant", "content": text}
            for call in message.get("tool_calls") or ():
                yield {"type": "function_call", "call_id": call["id"], **call["function"]}
        else:
            yield {"role": role, "content": content if isinstance(content, str) else list(_parts(content))}


def _parts(content: Any) -> Iterator[dict[str, Any]]:
    for part, written in zip(parts_of(content), content, strict=True):
        mark = {_BREAKPOINT: written[_BREAKPOINT]} if isinstance(written, dict) and _BREAKPOINT in written else {}
        if not isinstance(part, Part):
            yield part
        elif part.kind == "text":
            yield {"type": "input_text", "text": part.text, **mark}
        elif part.kind == "image":
            yield {"type": "input_image", "image_url": part.url or data_url(part), "detail": "auto"}
        elif part.url:
            yield {"type": "input_file", "file_url": part.url}
        else:
            yield {"type": "input_file", "filename": part.name or "file.pdf", "file_data": data_url(part)}


# The answer -----------------------------------------------------------------------------------------------------------


def result_of(answer: dict[str, Any], request_id: str | None, model: str) -> ChatResult:
    """Convert an answer to LangChain's form. Raises NoAnswer for one without output."""
    output, found = answer.get("output"), usage_of(answer.get("usage"))
    if not isinstance(output, list):
        raise no_completion_in(answer, "output", billed=found is None or found["total_tokens"] > 0)
    calls, texts, refusals, thoughts, searches = ToolCalls(), [], [], [], 0
    sources: list[dict[str, Any]] = []
    for item in output:
        if item["type"] == "function_call":
            calls.add(item.get("name"), item.get("arguments"), item.get("call_id"))
        elif item["type"] == "reasoning" and item.get("encrypted_content"):
            thoughts.append(item)
        elif item["type"] == "web_search_call":
            thoughts.append(item)
            searches += (item.get("action") or {}).get("type", "search") == "search"
        elif item["type"] == "message":
            texts += [part["text"] for part in item["content"] if part["type"] == "output_text"]
            refusals += [part["refusal"] for part in item["content"] if part["type"] == "refusal"]
            sources += [source for part in item["content"] for source in _sources(part)]
    cut = (answer.get("incomplete_details") or {}).get("reason")
    metadata = {
        "finish_reason": cut or ("tool_calls" if calls.valid or calls.invalid else "stop"),
        "model_name": answer.get("model", model),
        "request_id": request_id or answer.get("id"),
        **({"service_tier": answer["service_tier"]} if answer.get("service_tier") else {}),
        **search_metadata(_billed(answer, searches), sources),
    }
    text = "".join(texts)
    with_thoughts = [*thoughts, {"type": "text", "text": text}] if thoughts and (calls.valid or calls.invalid) else text
    message = AIMessage(
        content=with_thoughts,
        additional_kwargs={"refusal": "".join(refusals)} if refusals else {},
        response_metadata=metadata,
        tool_calls=calls.valid,
        invalid_tool_calls=calls.invalid,
        usage_metadata=found,
    )
    return chat_result(message)


def _sources(part: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the sources that a part of a message names, each with the text that names it."""
    for one in part.get("annotations") or ():
        if one.get("type") == "url_citation":
            text = part.get("text", "")[one.get("start_index", 0) : one.get("end_index", 0)]
            yield citation(one.get("url"), one.get("title"), text)


def _billed(answer: Mapping[str, Any], searches: int) -> int:
    """Return the searches that are billed: as the answer says it, else all that it shows."""
    reported = counted((answer.get("tool_usage") or {}).get("web_search"), "num_requests")
    return searches if reported is None else reported


def usage_of(raw: Any) -> UsageMetadata | None:
    if not isinstance(raw, Mapping):
        return None
    of_input = raw.get("input_tokens_details")
    return usage(
        counted(raw, "input_tokens"),
        counted(raw, "output_tokens"),
        cached=counted(of_input, "cached_tokens"),
        cache_written=(counted(of_input, "cache_write_tokens"),),
        reasoning=counted(raw.get("output_tokens_details"), "reasoning_tokens"),
    )
