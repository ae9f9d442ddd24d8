"""The canonical request, as digests and as a text: what is asked of a model, and nothing of how.

So a better wire, or another way to pay, never bills an answer again. Digests by which earlier versions named the same
request are looked up, too.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage

from stages.journal.requests import RequestText
from stages.models.asked import Settings, canonical_json
from stages.models.backend import Backend
from stages.models.prompt_cache.prefix import end_of, is_long_enough, part_of
from stages.models.row.scope import request_digest
from stages.models.wires.media import image_count
from stages.models.wires.protocols.openai_chat import wire

_LONG = 2_000  # characters of binary content, of which only the digest is kept
_MARK = "cache_control"


@dataclass(frozen=True)
class Named:
    """A digest under which the answer of a request may be stored; `capped`: the cap of the answer is in it."""

    digest: str
    capped: bool


@dataclass(frozen=True)
class ModelRequest:
    """A request: the digest of its canonical form without the cap of the answer, its size in bytes, the most tokens of
    an answer, if the request sets it, `media`: it holds more than plain text, `images` of it, `searches`: its
    provider may search the web for it, `marked`: it has marks
    for the provider's cache. `capped`: the digest with the cap, for answers that were cut off by it, and those of
    versions that had no other. `older`: further digests that earlier
    versions gave it. `text`: the request for people. `prefix`: a digest of what the provider's cache keeps of it, empty
    if nothing is known to be kept."""

    digest: str
    size: int
    cap: int | None = None
    media: bool = False
    images: int = 0
    searches: bool = False
    marked: bool = False
    capped: str = ""
    older: tuple[Named, ...] = ()
    text: RequestText | None = None
    prefix: str = ""

    @property
    def names(self) -> tuple[Named, ...]:
        """Return the digests under which its answer is looked up, in this order."""
        if self.capped in ("", self.digest):
            return Named(self.digest, capped=True), *self.older
        return Named(self.digest, capped=False), Named(self.capped, capped=True), *self.older


def canonical_request(backend: Backend, messages: list[BaseMessage], settings: Settings) -> ModelRequest:
    """Return the request of these messages to a model."""
    sent = [wire(message) for message in messages]
    media = any(not isinstance(message["content"], str | None) for message in sent)
    asked = [_without_marks(message) for message in sent] if media else sent
    head = _common_count(asked)
    first, rest = canonical_json(asked[:head]), canonical_json(asked[head:])
    content = _joined(first, rest)
    free, capped = _digests(backend.identity, backend.capped_identity, content, settings.free, settings.capped)
    older: dict[Named, None] = {}
    if settings.older or backend.older is not None or asked != sent:
        now = backend.identity, backend.capped_identity or backend.identity
        before = canonical_json(sent) if asked != sent else content
        for pair in settings.older or ((settings.free, settings.capped),):
            older |= dict.fromkeys(_names(*(backend.older or now), before, *pair))
            if settings.older and backend.older is not None:
                older |= dict.fromkeys(_names(*now, content, *pair))
    common = b'{"model":%b,"settings":%b,"messages":%b}' % (backend.shown, settings.capped, first)
    kept = canonical_json([_without_media(message) for message in asked[head:]]) if media else rest
    return ModelRequest(
        digest=free,
        size=len(content) + len(settings.capped),
        cap=settings.cap,
        media=media,
        images=image_count(asked) if media else 0,
        searches=settings.searches,
        marked=asked != sent,
        capped=capped,
        older=tuple(older),
        text=RequestText(common, kept),
        prefix=_prefix(backend, messages, asked, settings),
    )


def _prefix(backend: Backend, messages: list[BaseMessage], asked: list[dict[str, Any]], settings: Settings) -> str:
    """Return the digest of what a request has in common with others, if the provider's cache can keep it; else ""."""
    end = end_of(messages) if backend.caching is not None else None
    if end is None or backend.caching is None:
        return ""
    begin = canonical_json(part_of(asked, end))
    if not is_long_enough(len(begin) + len(settings.capped), backend.caching.least):
        return ""
    return request_digest(backend.identity, settings.capped, begin)


def _names(identity: bytes, capped_identity: bytes, messages: bytes, free: bytes, capped: bytes) -> tuple[Named, Named]:
    without, with_cap = _digests(identity, capped_identity, messages, free, capped)
    return Named(without, without == with_cap), Named(with_cap, True)


def _digests(
    identity: bytes, capped_identity: bytes | None, messages: bytes, free: bytes, capped: bytes
) -> tuple[str, str]:
    """Return the digest without the cap of the answer, and with it."""
    with_cap = request_digest(capped_identity or identity, messages, capped)
    if free == capped and capped_identity in (None, identity):
        return with_cap, with_cap
    return request_digest(identity, messages, free), with_cap


def _common_count(messages: list[dict[str, Any]]) -> int:
    """Return the number of messages before the last of the user's: those that rows have in common, as a rule."""
    return max((index for index, message in enumerate(messages) if message["role"] == "user"), default=0)


def _joined(first: bytes, rest: bytes) -> bytes:
    """Return two JSON arrays as one."""
    if first == b"[]" or rest == b"[]":
        return rest if first == b"[]" else first
    return first[:-1] + b"," + rest[1:]


def _without_marks(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message without marks for the provider's cache."""
    content = message["content"]
    if not isinstance(content, list) or not any(isinstance(part, dict) and _MARK in part for part in content):
        return message
    parts = [
        {name: value for name, value in part.items() if name != _MARK} if isinstance(part, dict) else part
        for part in content
    ]
    return {**message, "content": parts}


def _without_media(value: Any) -> Any:
    """Return a part of a message with the digest of long binary content in its place: images, files, sound."""
    if isinstance(value, dict):
        if value.get("type") == "text":
            return value
        return {name: _without_media(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_media(inner) for inner in value]
    if isinstance(value, str) and len(value) > _LONG and " " not in value[:_LONG]:
        digest = hashlib.sha256(value.encode()).hexdigest()
        return f"{value[:40].partition(',')[0]}… {len(value)} characters, SHA-256 {digest}"
    return value
