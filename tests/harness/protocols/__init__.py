"""Protocols of providers for the model server: a request as a Chat Completions body, and its answer in their form."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.harness.protocols import anthropic, converse, gemini, responses

Body = dict[str, Any]


@dataclass(frozen=True)
class Protocol:
    """`request`: the canonical request of a body and the path it came by; `answer`: a chat completion in the protocol's
    form; `error`: an error of a status, a message and a code. Each raises ValueError or KeyError for what the provider
    would refuse."""

    request: Callable[[Body, str], Body]
    answer: Callable[[Body], Body]
    error: Callable[[int, str, str | None], Body]


def _same(body: Body, path: str) -> Body:
    return body


def _openai_error(status: int, message: str, code: str | None) -> Body:
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    kind = code if code == "insufficient_quota" else kind
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


CHAT = Protocol(_same, lambda completion: completion, _openai_error)
_GEMINI = Protocol(gemini.request, gemini.answer, gemini.error)
_PATHS = (
    (re.compile(r"/v1/(chat/completions|embeddings)"), CHAT),
    (re.compile(r"/v1/responses"), Protocol(responses.request, responses.answer, _openai_error)),
    (re.compile(r"/v1/messages"), Protocol(anthropic.request, anthropic.answer, anthropic.error)),
    (re.compile(r"/model/[^/]+/converse"), Protocol(converse.request, converse.answer, converse.error)),
    (re.compile(r"/v1(?:beta)?/models/[^/]+:generateContent"), _GEMINI),
    (re.compile(r"/v1beta1/(?:projects/[^/]+/locations/[^/]+/)?\S+:generateContent"), _GEMINI),  # Vertex AI
)


def protocol_of(path: str) -> Protocol | None:
    """Return the protocol that a path belongs to."""
    return next((protocol for pattern, protocol in _PATHS if pattern.fullmatch(path)), None)
