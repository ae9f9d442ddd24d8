"""Web search that a provider runs: in requests, and what answers hold of it. No I/O.

In the canonical request it is the tool `{"type": "web_search"}`, from which each wire writes its provider's own;
`max_tool_calls` caps the searches of one call, and `citations` says that the sources are to be kept. In the metadata of
an answer are `web_searches`, as many as are billed, `citations`: `{url, title, text}` each, and `turns`, if it paused.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from stages.limits.budget import MOST_SEARCHES
from stages.limits.prices import WEB_SEARCHES

TYPE = "web_search"
CITATIONS = "citations"
MOST_CALLS = "max_tool_calls"
TURNS = "turns"  # of an answer that paused, each with a cap of its own


def is_search(tool: Any) -> bool:
    """True for the canonical tool."""
    return isinstance(tool, Mapping) and tool.get("type") == TYPE


def searches_web(request: Mapping[str, Any]) -> bool:
    return any(map(is_search, request.get("tools") or ()))


def most_searches(request: Mapping[str, Any]) -> int:
    """Return the most searches of one call: as the request sets it, else what a budget counts on."""
    return int(request.get(MOST_CALLS) or MOST_SEARCHES)


def citation(url: Any, title: Any, text: Any) -> dict[str, Any]:
    """Return a source of an answer; `text`: the passage of the source, or that of the answer which it supports."""
    return {"url": str(url), "title": str(title) if title else None, "text": str(text) if text else None}


def search_metadata(searches: int, citations: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return what an answer's metadata holds of its searches, each source once; nothing without any."""
    once: list[dict[str, Any]] = []
    for found in citations:
        if found not in once:
            once.append(found)
    return {**({WEB_SEARCHES: searches} if searches else {}), **({CITATIONS: once} if once else {})}
