"""The request form that one model at one address accepts, learned from its refusals and kept for the process. No I/O.

Some requests can be rewritten: `max_tokens` by its newer or older name, a schema as a forced tool or in words, the
system text in the user's turn. Any other refused parameter stops the run, as every row would be refused. All of it is
done to the canonical request (`stages.models.wires.protocols.wire`), so it is the same for each protocol.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson

from schemas.errors import FatalModelError, RowError
from stages.models.wires.marks import is_marked, without_marks
from stages.models.wires.protocols.parts import text_of
from stages.models.wires.protocols.wire import SchemaMode

_SCHEMA_WORDS = re.compile(
    r"response_?format|json_?schema|structured.?output|output_?config|response_?json_?schema|text_?\.?format"
    r"|json mode|response_?mime_?type",
    re.I,
)
_TOO_COMPLEX = re.compile(r"(grammar|schema)\b.{0,40} too (large|complex)|too many states", re.I)
_TOOL_WORDS = re.compile(r"tool_?choice|toolChoice|\btools?\b|strict|function.?calling", re.I)
_REFUSED = re.compile(
    r"not support|unsupported|unavailable|unknown|unrecogni[sz]ed|not permitted|not allowed|unexpected|must be"
    r"|should be|invalid (value|parameter|argument)|not valid|deprecated|out of range|(less|greater) than"
    r"|at (most|least)|too (large|small|high|low|big)|cannot be|can't be|not accept|extra (input|field)|not enabled"
    r"|incompatible|cannot find field|may not be|range:|which is the maximum",
    re.I,
)
_UNKNOWN = re.compile(r"not support|unsupported|unknown|unrecogni|extra (input|field)|not permitted", re.I)
_SYSTEM = re.compile(
    r"system.{0,3} (role|message|prompt|instruction|turn)|role.{0,20}system|support.{0,20}system|developer instruction"
    r"|roles? must alternate|only (the )?user and assistant|messages\[0\]\.role",
    re.I,
)
_MARK_WORDS = re.compile(r"cache_?control|cache_?point|prompt_?cach|ephemeral", re.I)
_CAPS = ("max_tokens", "max_completion_tokens")
# Plain words, which errors also use with other meanings: as parameters they stand in quotes.
_PLAIN_WORD = re.compile(r"[a-z]+")
_UNMISTAKABLE = frozenset(("temperature", "logprobs", "verbosity"))
# Canonical names of parameters, and how providers call them.
_ALSO = {
    "max_tokens": r"max_?output_?tokens",
    "stop": r"stop_?sequences",
    "reasoning_effort": r"thinking_?level|thinking_?config|output_config\.effort|reasoning\.effort",
    "verbosity": r"text\.verbosity",
    "response_format": r"output_config\.format|response_?json_?schema|response_?mime_?type|text\.format|textFormat",
    "parallel_tool_calls": r"disable_parallel_tool_use",
    "thinking_budget": r"thinking_?budget",
}


@dataclass
class Dialect:
    """`accepted`: parameters with which the model has answered, so it does not refuse them."""

    renamed: dict[str, str] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)
    refused_modes: set[SchemaMode] = field(default_factory=set)
    system_in_user: bool = False
    unmarked: bool = False
    accepted: set[str] = field(default_factory=set)

    def apply(self, payload: dict[str, Any], modes: Sequence[SchemaMode] = ()) -> dict[str, Any]:
        """Rewrite the request to the form that this model accepts; `modes`: those of its protocol for a schema."""
        mode = self._mode(modes)
        if self.unmarked:
            payload = without_marks(payload)
        if mode == "words" and "response_format" in payload:
            payload = with_schema_in_words(payload)
        elif mode == "tool" and "response_format" in payload:
            payload = with_schema_as_tool(payload)
        if self.system_in_user:
            payload = {**payload, "messages": _with_system_in_user(payload["messages"])}
        if self.renamed or self.left_out:
            payload = {self.renamed.get(k, k): v for k, v in payload.items() if k not in self.left_out}
        return payload

    def _mode(self, modes: Sequence[SchemaMode]) -> SchemaMode | None:
        return next((mode for mode in modes if mode not in self.refused_modes), "words" if modes else None)

    def learn(self, refusal: RowError, sent: Mapping[str, Any], model: str, modes: Sequence[SchemaMode] = ()) -> bool:
        """Learn from a refusal; True if the request can be sent in another form now. Raises FatalModelError for a
        parameter that has no other form and was never accepted."""
        if refusal.kind != "bad_request" or refusal.status is None:
            return False
        if not self.unmarked and _is_marked(sent) and _refuses_marks(refusal):
            self.unmarked = True
            return True
        mode = self._mode(modes)
        as_format = mode == "format" and "response_format" in sent and refuses_schemas(refusal)
        too_complex = mode in ("format", "tool") and _TOO_COMPLEX.search(refusal.message) is not None
        if as_format or too_complex or (mode == "tool" and _refuses_tools(refusal)):
            assert mode is not None
            self.refused_modes.add(mode)
            return True
        name = _refused_parameter(refusal, sent)
        if name in _CAPS and name not in (*self.renamed, *self.renamed.values(), *self.accepted):
            other = _CAPS[1 - _CAPS.index(name)]
            if other in refusal.message or _UNKNOWN.search(refusal.message):
                self.renamed[name] = other
                return True
        if name is None and any(m["role"] == "system" for m in sent["messages"]) and _refuses_system(refusal):
            self.system_in_user = True
            return True
        if name == "stream":
            self.left_out.add(name)
            return True
        if name is None or name in self.accepted:
            return False
        raise FatalModelError(
            f"{model}: the provider refuses the parameter {name!r} ({refusal.message})",
            hint="Change the output's declaration: the provider does not accept this schema."
            if name == "response_format"
            else f"Take {name} out of params, or set a value that this model accepts.",
        )


def _refused_parameter(refusal: RowError, sent: Mapping[str, Any]) -> str | None:
    """Return the parameter of our request that a refusal names."""
    named = re.split(r"[.\[]", refusal.parameter, maxsplit=1)[0]
    ours = [name for name in sent if name not in ("messages", "model")]
    if named in ours and named not in ("tools", "response_format"):
        return named
    if not _REFUSED.search(refusal.message):
        return None
    found = [(match.start(), name) for name in ours if (match := _mention(name).search(refusal.message)) is not None]
    return min(found)[1] if found else None


@lru_cache(maxsize=256)
def _mention(name: str) -> re.Pattern[str]:
    """Return the expression of a parameter's name, in snake or camel case, or as its provider calls it."""
    if _PLAIN_WORD.fullmatch(name) and name not in _UNMISTAKABLE:
        pattern = rf"['\"`]{name}['\"`]|(?<=: ){name}(?=[:.])"
    else:
        pattern = rf"(?<!\w){re.escape(name).replace('_', '_?')}(?!\w)"
    also = rf"|(?<!\w)(?:{_ALSO[name]})(?!\w)" if name in _ALSO else ""
    return re.compile(pattern + also, re.I)


def _is_marked(sent: Mapping[str, Any]) -> bool:
    contents = [message["content"] for message in sent["messages"] if isinstance(message["content"], list)]
    return "prompt_cache_options" in sent or any(is_marked(part) for content in contents for part in content)


def _refuses_marks(refusal: RowError) -> bool:
    return bool(_MARK_WORDS.search(f"{refusal.parameter} {refusal.message}") and _REFUSED.search(refusal.message))


def _refuses_system(refusal: RowError) -> bool:
    text = refusal.message
    return bool(_SYSTEM.search(text) and (_REFUSED.search(text) or re.search(r"must alternate|only ", text, re.I)))


def _refuses_tools(refusal: RowError) -> bool:
    return bool(_TOOL_WORDS.search(refusal.message) and _REFUSED.search(refusal.message))


def refuses_schemas(exc: RowError) -> bool:
    """True for a 400 about `response_format` itself; not for one about an invalid schema."""
    message = exc.message
    return bool(
        exc.kind == "bad_request"
        and _SCHEMA_WORDS.search(message)
        and _REFUSED.search(message)
        and not re.search(r"invalid schema", message, re.I)
    )


def with_schema_in_words(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the same request with its schema in a system message."""
    response_format = payload["response_format"]
    schema = (response_format.get("json_schema") or {}).get("schema") if isinstance(response_format, dict) else None
    words = "Answer with one JSON object and nothing else."
    if schema is not None:
        words += f" It must fit this JSON schema:\n{orjson.dumps(schema).decode()}"
    first, *rest = payload["messages"]
    if first["role"] == "system" and isinstance(first["content"], str):
        messages = [{**first, "content": f"{first['content']}\n\n{words}"}, *rest]
    else:
        messages = [{"role": "system", "content": words}, first, *rest]
    return {**{k: v for k, v in payload.items() if k != "response_format"}, "messages": messages}


def with_schema_as_tool(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the same request with its schema as a strict tool; forced, unless there are other tools to call first."""
    declared, others = payload["response_format"]["json_schema"], payload.get("tools") or []
    name = declared["name"]
    function = {"name": name, "description": "Give the answer.", "parameters": declared["schema"], "strict": True}
    rest = {k: v for k, v in payload.items() if k != "response_format"}
    choice = {} if others else {"tool_choice": {"type": "function", "function": {"name": name}}}
    return {**rest, "tools": [*others, {"type": "function", "function": function}], **choice}


def _with_system_in_user(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Move the system text to the start of the first user message."""
    system = [text_of(message["content"]) for message in messages if message["role"] == "system"]
    rest = [message for message in messages if message["role"] != "system"]
    if not system:
        return messages
    text = "\n\n".join(system)
    first = next((index for index, message in enumerate(rest) if message["role"] == "user"), None)
    if first is None:
        return [{"role": "user", "content": text}, *rest]
    content = rest[first]["content"]
    joined = f"{text}\n\n{content}" if isinstance(content, str) else [{"type": "text", "text": text}, *content]
    return [*rest[:first], {**rest[first], "content": joined}, *rest[first + 1 :]]
