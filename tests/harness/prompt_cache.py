"""A provider's cache of prompts, as bills show it: an answer reads what an earlier one has written."""

from __future__ import annotations

from typing import Any

import orjson

_MARKS = frozenset(("cache_control", "prompt_cache_breakpoint", "cachePoint"))


class PromptCache:
    """The prefixes that answers have written."""

    def __init__(self) -> None:
        self._written: set[bytes] = set()

    def lookup(self, body: bytes) -> tuple[bytes, int, bool]:
        """The marked prefix of a request, its tokens, and whether it can be read now."""
        prefix = _prefix(orjson.loads(body))
        return prefix, -(-len(prefix) // 4) if prefix else 0, prefix in self._written

    def write(self, prefix: bytes) -> None:
        if prefix:
            self._written.add(prefix)


def _prefix(data: dict[str, Any]) -> bytes:
    """What stands before the last mark: tools, system text and turns, in the order in which providers read them."""
    blocks: list[Any] = list(data.get("tools") or (data.get("toolConfig") or {}).get("tools") or [])
    for name in ("system", "messages", "input"):
        for part in data.get(name) or [] if not isinstance(data.get(name), str) else [data[name]]:
            content = part.get("content") if isinstance(part, dict) else None
            blocks += content if isinstance(content, list) else [part]
    last = max((at for at, block in enumerate(blocks) if isinstance(block, dict) and _MARKS & block.keys()), default=-1)
    return orjson.dumps(blocks[: last + 1]) if last >= 0 else b""
