"""What a call asks beside its messages: the declared output, tools and parameters, in one form for all providers.

The form is the Chat Completions API's, in which requests have always been digested. Nothing of how a request is sent is
in it: the schema mode, cache marks, price tiers, the name of the cap.
"""

import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import BaseModel, PydanticUserError, SecretStr, TypeAdapter

from stages.limits.budget import cap_in, with_plain_cap, without_cap
from stages.models.chat_model import AnyChatModel, canonical_tool
from stages.models.earlier import by_langchain
from stages.models.settings.choice import HOW
from stages.models.wires.protocols.search import is_search, searches_web

# Settings of the connection, which no version has ever digested.
_NEVER_DIGESTED = frozenset(
    ("timeout", "request_timeout", "max_retries", "ls_structured_output_format", "run_manager")
)  # fmt: skip
_TOLD_BY = frozenset(("tools", "tool_choice", "response_format", "strict"))  # by which providers are told of a schema


@dataclass(frozen=True)
class Settings:
    """The settings of a call as canonical JSON, without and with the cap of its answer; `cap`: it. `older`: both as
    earlier versions digested them, where that differs; `searches`: its provider may search the web for it."""

    free: bytes
    capped: bytes
    cap: int | None
    older: tuple[tuple[bytes, bytes], ...] = ()
    searches: bool = False


class TakesSettings:
    """A chat model whose `_agenerate` takes the settings of a call that are known already: `settings`."""

    spec_name: str = ""  # as users write it


class OneOfSeveral:
    """A chat model that is several: its `_agenerate` takes further arguments of each in `each`."""

    @property
    def members(self) -> list[AnyChatModel]:
        raise NotImplementedError


@dataclass(frozen=True)
class Declared:
    """The name and JSON schema of an output, and the tools that the model may call before it answers."""

    name: str
    schema: Mapping[str, Any]
    tools: Sequence[Any] = ()

    def instead_of(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters of a request, with this in place of the provider's own form of it."""
        declaration = {"name": self.name, "schema": self.schema, "strict": True}
        plain = {name: value for name, value in parameters.items() if name not in _TOLD_BY}
        plain["response_format"] = {"type": "json_schema", "json_schema": declaration}
        if self.tools:
            plain["tools"] = [tool if is_search(tool) else canonical_tool(tool) for tool in self.tools]
        return plain


def settings_of(stop: Any, sent: Mapping[str, Any], declared: Declared | None = None, provider: str = "") -> Settings:
    """Return the settings of a call whose chat model gets the arguments `sent`; `provider`: of the model."""
    digested = {name: value for name, value in sent.items() if name not in _NEVER_DIGESTED}
    free, capped = _both(stop, _plain(digested, declared))
    answer = (declared.name, declared.schema) if declared is not None else None
    before = by_langchain(provider, digested, answer, declared.tools if declared is not None else ())
    forms = [digested] if before is None else [before, _plain(before, declared)]
    older = dict.fromkeys(_both(stop, form) for form in forms)
    older.pop((free, capped), None)
    return Settings(free, capped, cap_in(sent), tuple(older), searches_web(sent))


def _plain(arguments: dict[str, Any], declared: Declared | None) -> dict[str, Any]:
    """Return what is asked by the arguments of a call, and nothing of how."""
    asked = declared.instead_of(arguments) if declared is not None else _with_plain_tools(arguments)
    return with_plain_cap({name: value for name, value in asked.items() if name not in HOW})


def _both(stop: Any, parameters: Mapping[str, Any]) -> tuple[bytes, bytes]:
    capped = canonical_json([stop, parameters])
    return (capped if cap_in(parameters) is None else canonical_json([stop, without_cap(parameters)])), capped


def _with_plain_tools(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return parameters with tools, and the choice of one, that are in Anthropic's form in that of the others."""
    tools, choice = parameters.get("tools"), parameters.get("tool_choice")
    if not isinstance(tools, list) or not any(isinstance(tool, dict) and "input_schema" in tool for tool in tools):
        return parameters
    plain = {**parameters, "tools": [_plain_tool(tool) for tool in tools]}
    if isinstance(choice, dict) and choice.get("type") == "tool":
        plain["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif isinstance(choice, dict) and choice.get("type") in _CHOICES:
        plain["tool_choice"] = _CHOICES[choice["type"]]
    return plain


_CHOICES = {"any": "required", "auto": "auto", "none": "none"}


def _plain_tool(tool: Any) -> Any:
    if not isinstance(tool, dict) or "input_schema" not in tool:
        return tool
    function = {
        "name": tool.get("name"),
        "description": tool.get("description", ""),
        "parameters": tool["input_schema"],
    }
    return {"type": "function", "function": function}


def _is_tool(value: Any) -> bool:
    """True for a tool of LangChain's. Without its module in this process there is none."""
    tools = sys.modules.get("langchain_core.tools.base")
    return tools is not None and isinstance(value, tools.BaseTool)


def canonical_json(value: Any) -> bytes:
    return orjson.dumps(value, default=_canonical, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)


def _canonical(value: Any) -> Any:
    """Expand schemas: a class or a tool counts by its schema, not by its name or address in memory."""
    if inspect.isroutine(value) or _is_tool(value):
        return canonical_tool(value)
    if isinstance(value, type):
        try:
            return [value.__name__, TypeAdapter(value).json_schema()]
        except PydanticUserError:
            return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, SecretStr):
        return None  # a key does not change the answer
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if isinstance(value, bytes):
        return value.hex()
    return repr(value)
