"""The canonical request, as bytes and as a digest: its content, without settings of the connection."""

import inspect
from dataclasses import dataclass
from typing import Any

import orjson
from langchain_core.messages import BaseMessage
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, PydanticUserError, SecretStr, TypeAdapter

from stages.limits.budget import cap_in, without_cap
from stages.models.backend import Backend
from stages.models.row_scope import request_digest
from stages.models.wires.openai_chat import wire

# Settings of the connection, which do not change the answer: left out of the request digest.
_NOT_DIGESTED = frozenset(("timeout", "request_timeout", "max_retries", "ls_structured_output_format", "run_manager"))


@dataclass(frozen=True)
class ModelRequest:
    """A request: the digest of its canonical form without the cap of the answer, its size in bytes, the most tokens of
    an answer, if the request sets it, and `media`: it holds more than plain text. `capped`: the digest with the cap,
    for answers that were cut off by it, and those of versions that had no other."""

    digest: str
    size: int
    cap: int | None = None
    media: bool = False
    capped: str = ""


def canonical_request(backend: Backend, messages: list[BaseMessage], stop: Any, kwargs: dict[str, Any]) -> ModelRequest:
    parameters = {name: value for name, value in kwargs.items() if name not in _NOT_DIGESTED}
    messages_json = canonical_json([wire(message) for message in messages])
    settings_json = canonical_json([stop, parameters])
    size = len(messages_json) + len(settings_json)
    media = any(not isinstance(message.content, str) for message in messages)
    identity = backend.identity if backend.capped_identity is None else backend.capped_identity
    digest = capped = request_digest(identity, messages_json, settings_json)
    if (cap := cap_in(kwargs)) is not None or identity != backend.identity:
        free = settings_json if cap is None else canonical_json([stop, without_cap(parameters)])
        digest = request_digest(backend.identity, messages_json, free)
    return ModelRequest(digest, size, cap, media, capped)


def canonical_json(value: Any) -> bytes:
    return orjson.dumps(value, default=_canonical, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)


def _canonical(value: Any) -> Any:
    """Expand schemas: a class or a tool counts by its schema, not by its name or address in memory."""
    if isinstance(value, BaseTool) or inspect.isroutine(value):
        return convert_to_openai_tool(value)
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
